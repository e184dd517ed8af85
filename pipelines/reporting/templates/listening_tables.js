"use strict";
// Tables sort by a click on a heading: numbers as numbers, what is missing last.
(() => {
  const [NUMBER, WORD, MISSING] = [0, 1, 2]; // kinds of cells, in the order in which they sort

  function sortBy(column, heading) {
    const table = heading.closest("table");
    const up = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const key = ({ cells }) => {
      const { number, missing } = cells[column].dataset;
      if (missing !== undefined) return [MISSING, 0];
      return number === undefined ? [WORD, cells[column].textContent] : [NUMBER, Number(number)];
    };
    const compare = ([kind, one], [otherKind, other]) => {
      if (kind !== otherKind) return kind - otherKind; // numbers, then words, and what is missing last both ways
      if (kind === MISSING) return 0;
      const order = kind === WORD ? one.localeCompare(other, "en", { numeric: true }) : Math.sign(one - other) || 0;
      return up ? order : -order;
    };
    const rows = [...body.rows].map((row) => [key(row), row]).sort((one, other) => compare(one[0], other[0]));
    body.append(...rows.map(([, row]) => row));
  }
  for (const heading of document.querySelectorAll("table.sortable th")) {
    heading.querySelector("button").addEventListener("click", () => sortBy(heading.cellIndex, heading));
  }
})();
