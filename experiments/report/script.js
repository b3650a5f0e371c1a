"use strict";

const form = document.getElementById("filters");
const shown = document.getElementById("shown");
const rows = [...document.querySelectorAll(".row")];

function filter() {
  const { verdict, place, text } = form.elements;
  const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of rows) {
    const { verdict: itsVerdict, place: itsPlace, text: itsText } = row.dataset;
    row.hidden =
      (verdict.value !== "" && verdict.value !== itsVerdict) ||
      (place.value !== "" && place.value !== itsPlace) ||
      !words.every((word) => itsText.includes(word));
    count += row.hidden ? 0 : 1;
  }
  shown.textContent = `${count} of ${rows.length} rows shown`;
}

// The address keeps the filters, so that a view can be passed on.
function remember() {
  const state = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
  history.replaceState(null, "", `#${state}`);
}

function setFilters(state) {
  for (const field of form.querySelectorAll("[name]")) field.value = state.get(field.name) ?? "";
  filter();
}

// An address names a view of the ledger (#verdict=...), or one of its rows (#E14-1).
function follow() {
  const target = location.hash.slice(1);
  if (target.includes("=")) setFilters(new URLSearchParams(target));
  const row = document.getElementById(target);
  if (row?.classList.contains("row")) {
    if (row.hidden) setFilters(new URLSearchParams());
    row.querySelector("details").open = true;
    row.scrollIntoView();
  }
}

// Every picture is in the page once; an open row shows a copy.
function showFigure(row) {
  const place = row.querySelector("[data-figure]");
  if (!place || place.querySelector("img")) return;
  const picture = document.querySelector(`img[data-name="${CSS.escape(place.dataset.figure)}"]`);
  const frame = document.createElement("div");
  frame.className = "picture";
  frame.tabIndex = 0;
  frame.setAttribute("role", "group");
  frame.setAttribute("aria-label", "figure");
  const copy = picture.cloneNode();
  copy.removeAttribute("data-name");
  frame.append(copy);
  place.prepend(frame);
}

form.hidden = false;
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", () => (filter(), remember()));
// Fields are empty only after the event.
form.addEventListener("reset", () => setTimeout(() => (filter(), remember())));
// toggle does not bubble.
document.addEventListener("toggle", (event) => event.target.open && showFigure(event.target), true);
addEventListener("hashchange", follow);
filter();
follow();
