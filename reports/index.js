// Filters rows, columns and cells of the index, which opens on what has results; without scripts everything is shown. The filters stand in the address, so that a view can be linked to.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const fields = { task: $("filter-task"), paper: $("filter-paper"), verdict: $("filter-verdict"), results: $("filter-results"), variants: $("filter-variants") };
  const table = document.querySelector("table.matrix");
  const heads = [...table.tHead.rows[0].cells].slice(1);
  const rows = [...table.tBodies[0].rows];
  const pages = rows.reduce((n, row) => n + row.querySelectorAll("td[data-key]").length, 0);

  const some = table.querySelector("td[data-has]") !== null;

  function filter() {
    const text = fields.task.value.trim().toLowerCase();
    const [paper, verdict] = [fields.paper.value, fields.verdict.value];
    const narrow = fields.results.checked || verdict !== "";
    const column = heads.map((th) => (!paper || th.dataset.paper === paper) && (fields.variants.checked || !("variant" in th.dataset)));
    const used = heads.map(() => false);
    let shown = 0;
    for (const row of rows) {
      const fits = row.dataset.task.includes(text);
      let any = false;
      [...row.cells].slice(1).forEach((td, i) => {
        const on = fits && column[i] && "key" in td.dataset && (!verdict || td.dataset.key === verdict) && (!fields.results.checked || "has" in td.dataset);
        td.classList.toggle("off", "key" in td.dataset && !on);
        if (on) { any = used[i] = true; shown++; }
      });
      row.hidden = !any;
    }
    const show = column.map((on, i) => on && (used[i] || !narrow));
    heads.forEach((th, i) => (th.hidden = !show[i]));
    for (const row of rows) [...row.cells].slice(1).forEach((td, i) => (td.hidden = !show[i]));
    document.querySelectorAll("table.aggregates tbody tr").forEach((tr) => {
      tr.hidden = (paper && tr.dataset.paper !== paper) || (!fields.variants.checked && "variant" in tr.dataset);
    });
    table.hidden = shown === 0;
    document.querySelector(".none-shown").hidden = shown > 0;
    $("shown").textContent = shown === pages ? `${pages} pages` : `${shown} of ${pages} pages shown`;
    const state = new URLSearchParams();
    if (text) state.set("task", text);
    if (paper) state.set("paper", paper);
    if (verdict) state.set("verdict", verdict);
    if (fields.results.checked !== some) state.set("results", some ? "0" : "1");
    if (!fields.variants.checked) state.set("variants", "0");
    history.replaceState(null, "", state.size ? "#" + state : location.pathname + location.search);
  }
  const form = document.querySelector("form.filters");
  const given = new URLSearchParams(location.hash.slice(1));
  fields.task.value = given.get("task") ?? "";
  for (const key of ["paper", "verdict"]) if ([...fields[key].options].some((o) => o.value === given.get(key))) fields[key].value = given.get(key);
  fields.results.checked = given.has("results") ? given.get("results") === "1" : some;
  fields.variants.checked = given.get("variants") !== "0";
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  if (given.size || some) filter();
})();
