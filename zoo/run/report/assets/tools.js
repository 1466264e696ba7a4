"use strict";
// What the other scripts of the page share. All text goes in as text, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (selector) => document.querySelector(selector);
const competes = (row) => row.kind === "checkpoint" || row.kind === "videos";
const column = (key) => data.columns.find((metric) => metric.key === key);
const headings = (columns) => columns.map((metric) => [metric.key, metric.heading]);
const WORDS = { inf: Infinity, "-inf": -Infinity };
const number = (value) => WORDS[value] ?? value ?? NaN;
const finite = (value) => Number.isFinite(number(value));

function show(value, digits) {
  value = number(value);
  if (Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "-∞";
  const tiny = value !== 0 && Math.abs(value) < 0.5 * 10 ** -digits;
  return tiny ? value.toExponential(1) : (value || 0).toFixed(digits);
}

function interval({ low, high }, digits) {
  return finite(low) && finite(high) ? `[${show(low, digits)}, ${show(high, digits)}]` : "";
}

// A new element: properties by name, then children, elements or text.
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  Object.assign(element, properties);
  element.append(...children);
  return element;
}

// The same for SVG, with attributes.
function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const note = (text) => make("p", { className: "note" }, text);
const labelled = (labels) => Object.entries(labels).map(([name, value]) => `${name} ${value}`).join(" · ");

// Fills a menu with [value, text], and calls `change` with what is chosen, now and later.
function menu(select, options, chosen, change) {
  for (const [value, text] of options) {
    select.append(make("option", { value, textContent: text, selected: value === chosen }));
  }
  select.addEventListener("change", () => change(select.value));
  if (options.length) change(select.value);
}

// Competing rows have a colour each; the truth is ink, baselines are grey and dashed.
const looks = (() => {
  let next = 0, baseline = 0;
  return data.rows.map((row) => {
    if (row.kind === "truth") return { colour: "var(--truth)", dash: "none" };
    if (row.kind === "baseline") return { colour: "var(--baseline)", dash: ["5 3", "2 2", "8 2 2 2"][baseline++ % 3] };
    const look = { colour: `var(--c${next % 8})`, dash: next < 8 ? "none" : "6 2" };
    next += 1;
    return look;
  });
})();

function swatch(row, element = make("span", { className: "swatch" })) {
  element.style.background = looks[row].colour;
  return element;
}
for (const element of document.querySelectorAll(".swatch")) swatch(element.dataset.row, element);
