"use strict";
document.querySelectorAll("thead button").forEach((button) => {
  const column = Number(button.dataset.column);
  const head = button.closest("th");
  const body = head.closest("table").tBodies[0];
  const sortKey = (row) => {
    const cell = row.cells[column];
    const text = cell.textContent.trim();
    if (cell.querySelector("s")) return null;
    return "value" in cell.dataset ? Number(cell.dataset.value) : text === "–" ? null : text;
  };
  button.addEventListener("click", () => {
    const first = head.classList.contains("number") ? "descending" : "ascending";
    const second = first === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? second : first;
    head.closest("thead").querySelectorAll("[aria-sort]").forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const rows = Array.from(body.rows, (row) => ({ row, key: sortKey(row) }));
    rows.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      if (typeof a.key === "number" && typeof b.key === "number") return sign * (a.key - b.key);
      return sign * String(a.key).localeCompare(String(b.key), "en", { numeric: true });
    });
    body.append(...rows.map((item) => item.row));
  });
});
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement.style;
  const now = root.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  root.colorScheme = now === "dark" ? "light" : "dark";
});
