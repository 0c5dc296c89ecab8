"""Networks of drafters, and what they are trained on."""

from __future__ import annotations

TESTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "drafters/block_diffusion/data.py": (
        ("tests/test_block_diffusion.py", "-k", "anchors or gathered or inference or loss_equals"),
        ("tests/test_training_data.py", "tests/test_vp.py", "-k", "order or vocabulary or prefix"),
        ("tests/test_trainer.py", "-k", "epoch_holds"),
    ),
    "drafters/block_diffusion/head.py": (
        ("tests/test_block_diffusion.py", "-k", "label or soft or chunk"),
    ),
    "drafters/block_diffusion/span.py": (("tests/test_span.py",),),
    "drafters/block_diffusion/dynamic_conv.py": (("tests/test_dynamic_conv.py",),),
    "drafters/block_diffusion/optimizer.py": (
        ("tests/test_trainer.py", "-k", "schedule or add_up or scale_loses"),
    ),
    "drafters/diffusion_lm/masking.py": (
        ("tests/test_diffusion_training.py", "-k", "block or masks or behind or views or packed"),
    ),
    "targets/cascade.py": (("tests/test_cascade.py",),),
}

MUTANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "drafters/block_diffusion/data.py": (
        ("len(self.ids) - 1 - self.start", "len(self.ids) - self.start"),
        ("counts.update(sequence.ids[sequence.start :])", "counts.update(sequence.ids)"),
        ("(-item[1], item[0])", "(item[1], item[0])"),
        ("(-item[1], item[0])", "(-item[1], -item[0])"),
        ("default_rng([seed, epoch])", "default_rng([seed, 0])"),
        ("np.sort(picked) + sequence.start", "np.sort(picked)"),
        ("np.arange(1, block_size)", "np.arange(block_size - 1)"),
        ("inside = at < len(ids)", "inside = at <= len(ids)"),
        (".cumsum(0)[:-1] / mass.sum()", ".cumsum(0)[1:] / mass.sum()"),
        ("coins[:, None] >= ends", "coins[:, None] < ends"),
    ),
    "drafters/block_diffusion/head.py": (
        ("(weight[labels] - mean)", "(weight[labels] + mean)"),
        ("+ by_log_z * mean, None", ", None"),
        ("log_z - at_teacher", "at_teacher - log_z"),
        ("corrects.append(at_label[:, 0] >= logits", "corrects.append(at_label[:, 0] > logits"),
        ("logits = cap * torch.tanh(logits / cap)", "logits = torch.tanh(logits / cap)"),
    ),
    "drafters/block_diffusion/span.py": (
        ("max(0, length + 1 - self.window)", "max(0, length - self.window)"),
        ("ahead <= 0 if self.causal", "ahead < 0 if self.causal"),
        ("ahead.abs() < self.window", "ahead.abs() <= self.window"),
        ("end <= self.window", "end < self.window"),
        ("self.window < 1", "self.window < 0"),
    ),
    "drafters/block_diffusion/dynamic_conv.py": (
        ("self.base_kernel[1], correction", "self.base_kernel[0], correction"),
        ("base[:, 0] = 1", "base[:, -1] = 1"),
        (
            "        return _convolve(x, self.base_kernel[0], first), second",
            "        return _convolve(x, self.base_kernel[0], second), first",
        ),
        ("(0, 0, 0, 0, tap, 0))", "(0, 0, 0, 0, 0, tap))"),
        ("correction[..., tap, :, None]", "correction[..., 0, :, None]"),
    ),
    "drafters/block_diffusion/optimizer.py": (
        ("return (step + 1) / warmup", "return step / warmup"),
        ("if step < warmup:", "if step <= warmup:"),
        ("0.5 * (1 + math.cos", "0.5 * (1 - math.cos"),
        ("self.peak * scale", "self.peak"),
        ("        self.adam.zero_grad()\n", ""),
    ),
    "drafters/diffusion_lm/masking.py": (
        ("self.max_context - anchor - 1)", "self.max_context - anchor)"),
        ("RANDOM_SHARE = 0.25", "RANDOM_SHARE = 0.75"),
        ("-(-2 * self.longest // 3)", "self.longest // 3"),
        ("constant_values=ids[-1]", "constant_values=0"),
        ("1 / (t * length)", "1 / length"),
        ("begin + view.places - shifted", "begin + view.places"),
        ("begin = max(sequence.start, 1)", "begin = 1"),
        ("1 / len(labels)", "1.0"),
        ("self.longest + 1)))", "self.longest)))"),
    ),
    "targets/cascade.py": (
        ("torch.sigmoid(far_lse - near_lse)", "torch.sigmoid(near_lse - far_lse)"),
        ("head**-0.5 if scale is None", "1.0 if scale is None"),
        ("*local, scale, mask)", "*local, scale)"),
        ("lse = scores.logsumexp(-1)", "lse = scores.amax(-1)"),
        ("scores = scale * (q.to", "scores = (q.to"),
    ),
}
