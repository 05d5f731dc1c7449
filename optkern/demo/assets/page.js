// Dark or light, and tables that are sorted by the column whose head is pressed.
"use strict";
const page = {
  // Empty cells and words last, numbers by their value, else as text.
  before(a, b) {
    const [x, y] = [parseFloat(a), parseFloat(b)];
    if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
    return Number.isNaN(x) ? a.localeCompare(b) : x - y;
  },

  sort(table, column, descending) {
    const body = table.tBodies[0];
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const empty = (row) => ["", "-", "nan"].includes(key(row));
    const rows = [...body.rows].sort((a, b) => {
      if (empty(a) || empty(b)) return empty(a) - empty(b);
      return (descending ? -1 : 1) * page.before(key(a), key(b));
    });
    body.append(...rows);
    [...table.tHead.rows[0].cells].forEach((head, k) => {
      if (k === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  },

  sortable(table) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        page.sort(table, column, head.getAttribute("aria-sort") === "ascending");
      });
    });
  },

  theme(button) {
    const root = document.documentElement;
    const asked = matchMedia("(prefers-color-scheme: dark)");
    const is_dark = () => (root.dataset.theme ?? (asked.matches ? "dark" : "light")) === "dark";
    const show = () => {
      button.textContent = is_dark() ? "light" : "dark";
      button.setAttribute("aria-label", `switch to ${button.textContent} colours`);
    };
    try {
      const kept = localStorage.getItem("optkern-theme");
      if (kept === "dark" || kept === "light") root.dataset.theme = kept;
    } catch {} // a page that is a file may have no storage
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = is_dark() ? "light" : "dark";
      try {
        localStorage.setItem("optkern-theme", root.dataset.theme);
      } catch {}
      show();
    });
    asked.addEventListener("change", show);
    show();
  },
};

page.theme(document.getElementById("theme"));
document.querySelectorAll("table.sortable").forEach(page.sortable);
