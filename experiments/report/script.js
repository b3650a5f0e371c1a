"use strict";

const claims = document.getElementById("claims");
const form = document.getElementById("filters");
const shown = document.getElementById("shown");
const columns = JSON.parse(claims.dataset.columns);
const rows = [...claims.querySelectorAll(".row")];
const SCROLLING = ".prose :is(p, ul, ol, pre, .math.block), .statement, .rows .note, figcaption, .command, .scroll, .picture";
const folds = [...claims.querySelectorAll(".panel, .part")];

// What a row of the ledger has in a column, in full.
const records = new Map(rows.map((row) => [row, row.dataset.row.split("\t")]));
const field = (row, name) => records.get(row)[columns.indexOf(name)];

// Filters

function filter() {
  const { verdict, place, method, text } = form.elements;
  const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
  const active = Boolean(verdict.value || place.value || method.value || words.length);
  let count = 0;
  for (const row of rows) {
    const all = `${row.dataset.row} ${row.textContent}`.toLowerCase();
    row.hidden =
      (verdict.value !== "" && verdict.value !== field(row, "verdict")) ||
      (place.value !== "" && place.value !== field(row, "place")) ||
      (method.value !== "" && !row.dataset.methods.split(",").includes(method.value)) ||
      !words.every((word) => all.includes(word));
    count += row.hidden ? 0 : 1;
  }
  // Only what has rows to show; these stand open, without figures, until the filters are cleared.
  for (const fold of folds) {
    fold.hidden = !fold.querySelector(".row:not([hidden])");
    if (fold.tagName !== "DETAILS") continue;
    if (active && !fold.hidden && !fold.open) {
      fold.open = true;
      fold.dataset.opened = "";
    } else if (!active && "opened" in fold.dataset) {
      fold.open = false;
      delete fold.dataset.opened;
    }
  }
  claims.classList.toggle("filtered", active);
  shown.textContent = `${count} of ${rows.length} rows shown`;
}

// The address keeps the filters, so that a view can be passed on.
function remember() {
  const state = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
  history.replaceState(null, "", `#${state}`);
}

function setFilters(state) {
  for (const element of form.querySelectorAll("[name]")) element.value = state.get(element.name) ?? "";
  filter();
}

// An address names a view (#verdict=...) or an element, a row (#E14-1) among them, which is unfolded.
function follow() {
  const name = location.hash.slice(1);
  if (name.includes("=")) {
    setFilters(new URLSearchParams(name));
    form.scrollIntoView();
    return;
  }
  const target = document.getElementById(decodeURIComponent(name));
  if (!target) return;
  if (claims !== target && claims.contains(target)) setFilters(new URLSearchParams());
  for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  target.scrollIntoView();
}

// Every picture is in the page once; where it is not at home, an open panel shows a copy.
function showFigure(panel) {
  const place = panel.querySelector(":scope > .evidence > [data-figure]");
  if (!place || place.nextElementSibling) return;
  const picture = claims.querySelector(`img[data-name="${CSS.escape(place.dataset.figure)}"]`);
  place.after(picture.closest("figure").cloneNode(true));
}

// What scrolls is reached by keyboard, what does not is no stop.
function reach() {
  for (const element of document.querySelectorAll(SCROLLING)) {
    if (element.scrollWidth > element.clientWidth + 1) element.tabIndex = 0;
    else element.removeAttribute("tabindex");
  }
}

// Once for all that is opened at a time.
let waiting = false;
function soon(action) {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => ((waiting = false), action()));
}

// Tables

function button(text, label) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  if (label) made.setAttribute("aria-label", label);
  return made;
}

// What a cell says, for sorting and for files: numbers in full, formulas as they were written.
function value(row, heading) {
  if (records.has(row)) return field(row, heading.dataset.key);
  const cell = row.cells[heading.cellIndex];
  return (cell.dataset.value ?? cell.textContent).trim().replace(/\s+/g, " ");
}

const isNumber = (text) => text !== "" && (Number.isFinite(Number(text)) || /^-?inf$/.test(text));
const toNumber = (text) => (/inf$/.test(text) ? Number(text.replace("inf", "Infinity")) : Number(text));

function compare(a, b) {
  if (a === "" || b === "") return (a === "") - (b === "");
  if (isNumber(a) && isNumber(b)) return toNumber(a) - toNumber(b);
  return a.localeCompare(b, "en", { numeric: true });
}

function sort(table, heading) {
  const down = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const [body] = table.tBodies;
  const order = [...body.rows].sort((a, b) => {
    const [x, y] = [value(a, heading), value(b, heading)];
    // What is not measured stays below.
    return x === "" || y === "" || !down ? compare(x, y) : compare(y, x);
  });
  body.append(...order);
}

// A spreadsheet runs text that begins with one of these.
const quote = (text) => `"${(isNumber(text) ? text : text.replace(/^[=+\-@\t\r]/, "'$&")).replaceAll('"', '""')}"`;

function save(name, lines) {
  const link = document.createElement("a");
  link.download = `${name.replace(/[^\w-]+/g, "_")}.csv`;
  const text = lines.map((cells) => cells.map(quote).join(",")).join("\r\n");
  link.href = `data:text/csv;charset=utf-8,${encodeURIComponent(`${text}\r\n`)}`;
  link.click();
}

const saveRows = (name, some) => save(name, [columns, ...some.map((row) => records.get(row))]);

function saveTable(table) {
  const headings = [...table.tHead.rows[0].cells];
  const body = [...table.tBodies[0].rows];
  if (body.every((row) => records.has(row))) return saveRows(table.dataset.name, body.filter((row) => !row.hidden));
  const lines = [headings.map((cell) => cell.dataset.value ?? cell.dataset.title ?? cell.textContent.trim())];
  save(table.dataset.name, [...lines, ...body.map((row) => headings.map((heading) => value(row, heading)))]);
}

for (const table of document.querySelectorAll("table")) {
  for (const heading of table.tHead.rows[0].cells) {
    heading.dataset.title = heading.textContent.trim();
    // Screen readers pass over formulas in a button.
    const made = button("", heading.dataset.title);
    made.append(...heading.childNodes);
    made.addEventListener("click", () => sort(table, heading));
    heading.append(made);
  }
  const download = button("CSV", `Download as CSV: ${table.dataset.name}`);
  download.className = "csv";
  download.addEventListener("click", () => saveTable(table));
  (table.closest(".scroll") ?? table).after(download);
}

form.hidden = false;
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", () => (filter(), remember()));
// Fields are empty only after the event.
form.addEventListener("reset", () => setTimeout(() => (filter(), remember())));
document.getElementById("download").addEventListener("click", () =>
  saveRows("claims", rows.filter((row) => !row.hidden)),
);
// toggle does not bubble.
document.addEventListener(
  "toggle",
  (event) => {
    if (event.target.open) showFigure(event.target);
    soon(reach);
  },
  true,
);
addEventListener("resize", () => soon(reach));
addEventListener("hashchange", follow);
// The same link again: the address does not change.
document.addEventListener("click", (event) => event.target.closest?.("a[href^='#']")?.hash === location.hash && follow());
filter();
follow();
reach();
