"""The page's only script: in tables of class `sortable`, a click on a column's name sorts the rows."""

import base64
import hashlib

SCRIPT = """
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const given = [...body.rows];
  const keyOf = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
  const compare = (one, other) => {
    const [a, b] = [Number(one), Number(other)];
    return Number.isNaN(a) || Number.isNaN(b) ? one.localeCompare(other, undefined, {numeric: true}) : a - b;
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const empty = (row) => ["", "–"].includes(keyOf(row, column));
      const known = given.filter((row) => !empty(row)).sort((one, other) =>
        (descending ? -1 : 1) * compare(keyOf(one, column), keyOf(other, column)));
      body.append(...known, ...given.filter(empty));
    });
  });
}
"""
HASH = "sha256-" + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
"""The script's hash in the page's content security policy, which allows no other script."""
