// The queries of the sample: searched, filtered and shown a page at a time. All text goes in as text, never as HTML.
"use strict";
(() => {
  const rows = JSON.parse(document.getElementById("sample").textContent);
  const PER_PAGE = 20;
  const get = (id) => document.getElementById(id);
  const controls = { text: get("search"), database: get("database"), origin: get("origin"), construct: get("construct"), joins: get("joins"), order: get("order") };
  let page = 0;

  const element = (name, text, className) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  const fill = (select, values) => {
    for (const value of values) {
      const option = element("option", value);
      option.value = value;
      select.append(option);
    }
  };
  fill(controls.database, [...new Set(rows.map((row) => row.database))].sort());
  fill(controls.origin, [...new Set(rows.map((row) => row.origin).filter(Boolean))].sort());
  fill(controls.construct, [...new Set(rows.flatMap((row) => row.constructs))].sort());

  const known = (value, digits) => (value === null || value === undefined ? "unknown" : digits === undefined ? String(value) : value.toFixed(digits));
  const matching = () => {
    const words = controls.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = rows.filter((row) => {
      const text = row.sql.toLowerCase();
      return words.every((word) => text.includes(word) || String(row.query_id) === word) &&
        (!controls.database.value || row.database === controls.database.value) &&
        (!controls.origin.value || row.origin === controls.origin.value) &&
        (!controls.construct.value || row.constructs.includes(controls.construct.value)) &&
        row.num_joins >= Number(controls.joins.value);
    });
    const by = controls.order.value;
    if (by !== "query_id") found.sort((a, b) => (b[by] ?? -1) - (a[by] ?? -1) || a.query_id - b.query_id);
    return found;
  };
  const body = (row) => {
    const made = element("div");
    made.append(element("pre", row.formatted));
    const counts = [
      ["joins", row.num_joins], ["predicates", row.num_predicates], ["nested queries", row.num_subqueries],
      ["aggregates", row.num_aggregates], ["windows", row.num_windows], ["tokens", row.num_tokens], ["rows returned", known(row.row_count)],
      ["ms on the database", known(row.execution_ms, 1)], ["similarity at admission", known(row.similarity, 3)],
      ["written by", [row.model, row.origin].filter(Boolean).join(", ") || "unknown"], ["round", known(row.round)],
    ];
    const list = element("ul", undefined, "chips");
    for (const [name, value] of counts) list.append(element("li", `${name}: ${value}`));
    for (const name of row.constructs) list.append(element("li", name));
    made.append(list);
    if (row.neighbours.length) {
      made.append(element("h3", "Nearest in the corpus"));
      for (const other of row.neighbours) {
        made.append(element("p", `Query ${other.other}, similarity ${other.similarity.toFixed(3)}`, "quiet"), element("pre", other.sql));
      }
    }
    return made;
  };
  const show = () => {
    const found = matching();
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    page = Math.min(page, pages - 1);
    const list = get("found");
    list.replaceChildren();
    for (const row of found.slice(page * PER_PAGE, (page + 1) * PER_PAGE)) {
      const details = element("details");
      const summary = element("summary", `${row.query_id} · ${row.database || "unknown database"} · ${row.tables.join(", ")}`);
      summary.append(element("span", row.sql.slice(0, 300), "one"));
      details.append(summary);
      details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) details.append(body(row)); });
      const item = element("li");
      item.append(details);
      list.append(item);
    }
    get("count").textContent = `${found.length} of ${rows.length} queries; page ${page + 1} of ${pages}`;
    get("before").disabled = page === 0;
    get("after").disabled = page >= pages - 1;
  };
  for (const control of Object.values(controls)) control.addEventListener("input", () => { page = 0; show(); });
  get("before").addEventListener("click", () => { page -= 1; show(); });
  get("after").addEventListener("click", () => { page += 1; show(); });
  show();
})();
