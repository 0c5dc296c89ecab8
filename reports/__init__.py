"""Reports: records in, Markdown and HTML out; nothing here touches a model."""
