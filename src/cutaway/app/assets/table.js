// The table of features in a site without a server: its heads sort, and words choose its rows.
{
  const body = document.querySelector("[data-list] tbody"), find = document.getElementById("find");
  const heads = [...document.querySelectorAll("[data-list] th")], values = JSON.parse(document.getElementById("values").textContent);
  const rows = [...body.rows].map((row, i) => ({ row, values: values[i], words: row.textContent.toLowerCase() }));
  const names = heads.map((head) => head.querySelector("button").textContent.replace(/ [↓↑]$/, ""));

  const sort = (column, sign) => {
    const known = (value) => value !== null && value !== "";
    rows.sort(({ values: a }, { values: b }) => known(b[column]) - known(a[column])      // what has no value comes last
      || sign * (typeof a[column] === "string" ? a[column].localeCompare(b[column]) : a[column] - b[column]) || a[0] - b[0]);
    heads.forEach((head, i) => {
      head.querySelector("button").textContent = names[i] + (i !== column ? "" : sign < 0 ? " ↓" : " ↑");
      if (i === column) head.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending"); else head.removeAttribute("aria-sort");
    });
    body.append(...rows.map(({ row }) => row));
  };
  heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () =>
    sort(i, head.getAttribute("aria-sort") === "descending" ? 1 : -1)));
  find.addEventListener("input", () => {
    const wanted = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const { row, words } of rows) row.hidden = !wanted.every((word) => words.includes(word));
  });
}
