"use strict";
// Draws what a menu can change: plots, breakdowns, comparisons. All text goes in as text, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (selector) => document.querySelector(selector);
const made = (row) => row.kind === "checkpoint" || row.kind === "videos";
const number = (value) => (value === null || value === undefined ? NaN : value === "inf" ? Infinity : value === "-inf" ? -Infinity : value);
const column = (key) => data.columns.find((one) => one.key === key);

function show(value, digits) {
  value = number(value);
  if (Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "-∞";
  return value !== 0 && Math.abs(value) < 0.5 * 10 ** -digits ? value.toExponential(1) : value.toFixed(digits);
}

// A new element: properties by name, then children, elements or text.
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  Object.assign(element, properties);
  element.append(...children);
  return element;
}

function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Rows that were made have a colour each; the truth is ink, baselines are grey and dashed.
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
for (const swatch of document.querySelectorAll(".swatch")) swatch.style.background = looks[swatch.dataset.row].colour;

function menu(select, options, chosen, change) {
  select.append(...options.map(([value, text]) => make("option", { value, textContent: text, selected: value === chosen })));
  select.addEventListener("change", () => change(select.value));
  if (options.length) change(select.value);
}
const headings = (columns) => columns.map((one) => [one.key, one.heading]);

// Plots ---------------------------------------------------------------------------------------------------------------

const HIGH = 300;
// drawn in the page's own pixels, so that letters keep their size on a phone
const widthOf = (box) => Math.max(280, box.clientWidth);

function scale(low, high, from, to) {
  return (value) => from + ((value - low) / (high - low)) * (to - from);
}

function span(values, around = 0.06) {
  const finite = values.filter(Number.isFinite);
  if (!finite.length) return null;
  let low = Infinity, high = -Infinity;
  for (const value of finite) [low, high] = [Math.min(low, value), Math.max(high, value)];
  const more = (high - low || Math.abs(high) || 1) * around;
  return [low - more, high + more];
}

function ticks(low, high, count = 5) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((one) => one * power >= rough) * power;
  const all = [];
  for (let at = Math.ceil(low / step); at * step <= high; at++) all.push(at * step);
  return { all, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

function frame(label, width, height, left, bottom) {
  return { svg: draw("svg", { width, height, role: "img", "aria-label": label }), left, right: width - 12, top: 10, bottom: height - bottom };
}

// The end of a long name says more than its beginning.
const shorten = (name, most) => (name.length > most ? `…${[...name].slice(1 - Math.floor(most)).join("")}` : name);

function axisX(box, low, high, title, x) {
  const { all, digits } = ticks(low, high, (box.right - box.left) / 90);
  for (const value of all) {
    box.svg.append(draw("line", { class: "axis", x1: x(value), x2: x(value), y1: box.top, y2: box.bottom }));
    box.svg.append(draw("text", { x: x(value), y: box.bottom + 16, "text-anchor": "middle" }, value.toFixed(digits)));
  }
  box.svg.append(draw("text", { x: box.right, y: box.bottom + 33, "text-anchor": "end" }, title));
}

function axisY(box, low, high, y) {
  const { all, digits } = ticks(low, high);
  for (const value of all) {
    box.svg.append(draw("line", { class: "axis", x1: box.left, x2: box.right, y1: y(value), y2: y(value) }));
    box.svg.append(draw("text", { x: box.left - 6, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(digits)));
  }
}

// Shows lines of [bold, text] near a point of the box, in pixels; null hides.
function tip(box, lines, x = 0, y = 0) {
  box.querySelector(".tip")?.remove();
  if (!lines) return;
  const note = make("div", { className: "tip" }, ...lines.map(([bold, text]) => make("div", {}, make("b", {}, bold), ` ${text}`)));
  box.append(note);
  const free = box.clientWidth - note.offsetWidth;
  note.style.left = `${Math.max(0, Math.min(free, x + 12))}px`;
  note.style.top = `${y + 12}px`;
}

function pointer(event, box) {
  const edge = box.querySelector("svg").getBoundingClientRect();
  return [event.clientX - edge.left, event.clientY - edge.top];
}

// The lines that say which rows a plot had to leave out.
function without(names) {
  return names.length ? [make("p", { className: "note" }, `Not drawn, without a finite value: ${names.join(", ")}`)] : [];
}

function plotTime(key) {
  const box = $("#time > div"), one = column(key), wide = widthOf(box);
  const curves = data.rows.map((row) => (row.time[key] || []).map(number));
  const area = frame(`${one.title} over time`, wide, HIGH, 52, 40);
  const range = span(curves.flat());
  if (!range) return box.replaceChildren(make("p", { className: "note" }, "No row has finite values."));
  const length = Math.max(...curves.map((curve) => curve.length));
  const x = scale(0, Math.max(1, length - 1) / data.fps, area.left, area.right), y = scale(...range, area.bottom, area.top);
  axisX(area, 0, (length - 1) / data.fps, "seconds", x);
  axisY(area, ...range, y);
  curves.forEach((curve, row) => {
    let path = "", pen = false;
    curve.forEach((value, index) => {
      if (Number.isFinite(value)) path += `${pen ? "L" : "M"}${x(index / data.fps).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = Number.isFinite(value);
    });
    if (path) area.svg.append(draw("path", { d: path, fill: "none", stroke: looks[row].colour, "stroke-width": 1.8, "stroke-dasharray": looks[row].dash, "stroke-linecap": "round" }));
  });
  const cursor = draw("line", { class: "axis", y1: area.top, y2: area.bottom, visibility: "hidden" });
  area.svg.append(cursor);
  const missing = data.rows.filter((row, index) => row.time[key] && !curves[index].some(Number.isFinite));
  box.replaceChildren(area.svg, ...without(missing.map((row) => row.name)));
  area.svg.addEventListener("pointerleave", () => { tip(box, null); cursor.setAttribute("visibility", "hidden"); });
  area.svg.addEventListener("pointermove", (event) => {
    const [at] = pointer(event, box);
    const index = Math.max(0, Math.min(length - 1, Math.round(((at - area.left) / (area.right - area.left)) * (length - 1))));
    const place = x(index / data.fps);
    for (const name of ["x1", "x2"]) cursor.setAttribute(name, place);
    cursor.setAttribute("visibility", "visible");
    const values = data.rows.map((row, number_) => [show(curves[number_][index], one.digits), row.name]).filter(([value]) => value !== "–");
    tip(box, [[`${(index / data.fps).toFixed(2)} s`, ""], ...values], place, 8);
  });
}

function plotCost(key) {
  const box = $("#cost > div"), one = column(key), wide = widthOf(box);
  const score = data.rows.map((row) => row.scores[key] || {});
  const has = data.rows.map((row, index) => Number.isFinite(number(score[index].mean)));
  const priced = data.rows.map((row, index) => has[index] && row.cost > 0);
  if (!priced.includes(true)) return box.replaceChildren(make("p", { className: "note" }, "No row has both this score and a measured cost."));
  const range = span(score.filter((_, index) => has[index]).flatMap((s) => [s.mean, s.low, s.high].map(number)), 0.1);
  const costs = data.rows.filter((_, index) => priced[index]).map((row) => Math.log10(row.cost));
  const [low, high] = [Math.min(...costs) - 0.25, Math.max(...costs) + 0.45];
  const area = frame(`${one.title} against seconds a video second`, wide, HIGH, 52, 40);
  const x = scale(low, high, area.left, area.right), y = scale(...range, area.bottom, area.top);
  axisY(area, ...range, y);
  for (let power = Math.floor(low); power <= high; power++) {
    for (const part of [1, 2, 5]) {
      const at = power + Math.log10(part);
      if (at < low || at > high) continue;
      area.svg.append(draw("line", { class: "axis", x1: x(at), x2: x(at), y1: area.top, y2: area.bottom }));
      area.svg.append(draw("text", { x: x(at), y: area.bottom + 16, "text-anchor": "middle" }, String(Number((part * 10 ** power).toPrecision(1)))));
    }
  }
  area.svg.append(draw("text", { x: area.right, y: area.bottom + 33, "text-anchor": "end" }, "seconds a video second, logarithmic"));
  data.rows.forEach((row, index) => {
    if (!has[index]) return;
    const { mean, low: from, high: to } = score[index], stroke = looks[index].colour;
    if (!priced[index]) {
      area.svg.append(draw("line", { x1: area.left, x2: area.right, y1: y(mean), y2: y(mean), stroke, "stroke-width": 1.4, "stroke-dasharray": looks[index].dash }));
      area.svg.append(draw("text", { x: area.left + 6, y: y(mean) - 4 }, row.name));
      return;
    }
    const at = x(Math.log10(row.cost));
    if (Number.isFinite(number(from)) && Number.isFinite(number(to))) area.svg.append(draw("line", { x1: at, x2: at, y1: y(from), y2: y(to), stroke, "stroke-width": 1.6 }));
    area.svg.append(draw("circle", { cx: at, cy: y(mean), r: 4.5, fill: stroke }));
    const flip = at > (area.left + area.right) / 2, room = (flip ? at - area.left : area.right - at) - 9;
    area.svg.append(draw("text", { class: "ink", x: at + (flip ? -9 : 9), y: y(mean) + 4, "text-anchor": flip ? "end" : "start" }, shorten(row.name, room / 7.2)));
  });
  const missing = data.rows.filter((row, index) => row.scores[key] && !has[index]);
  box.replaceChildren(area.svg, ...without(missing.map((row) => row.name)));
}

function plotStrip(key) {
  const box = $("#strip > div"), one = column(key), wide = widthOf(box), line = 40, most = wide > 700 ? 27 : 13;
  const rows = data.rows.map((row, index) => ({ row, index, values: (row.clips[key] || []).map(number) })).filter(({ values }) => values.some(Number.isFinite));
  if (!rows.length) return box.replaceChildren(make("p", { className: "note" }, "No row has finite values."));
  const high = rows.length * line + 54;
  const area = frame(`${one.title} of every clip`, wide, high, most * 7.2, 40), range = span(rows.flatMap(({ values }) => values), 0.03);
  const x = scale(...range, area.left, area.right);
  axisX(area, ...range, one.title, x);
  const dots = [];
  rows.forEach(({ row, index, values }, at) => {
    const middle = area.top + (at + 0.5) * line;
    let path = "";
    values.forEach((value, clip) => {
      if (!Number.isFinite(value)) return;
      // the golden ratio scatters neighbours, the same way every time
      const place = [x(value), middle + (((clip * 0.618034) % 1) - 0.5) * line * 0.5];
      dots.push({ clip, index, value, x: place[0], y: place[1] });
      path += `M${place[0].toFixed(1)} ${place[1].toFixed(1)}h0`;
    });
    const name = shorten(row.name, most);
    area.svg.append(draw("text", { class: "ink", x: area.left - 10, y: middle + 4, "text-anchor": "end" }, name));
    area.svg.append(draw("path", { d: path, stroke: looks[index].colour, "stroke-width": values.length > 300 ? 4 : 6.5, "stroke-linecap": "round", opacity: values.length > 300 ? 0.35 : 0.55 }));
    const score = row.scores[key] || {};
    if (Number.isFinite(number(score.mean))) {
      area.svg.append(draw("line", { x1: x(score.mean), x2: x(score.mean), y1: middle - 13, y2: middle + 13, stroke: "var(--ink)", "stroke-width": 1.6 }));
      if (Number.isFinite(number(score.low)) && Number.isFinite(number(score.high))) area.svg.append(draw("line", { x1: x(score.low), x2: x(score.high), y1: middle, y2: middle, stroke: "var(--ink)", "stroke-width": 1.6 }));
    }
  });
  const rings = draw("g");
  area.svg.append(rings);
  const missing = data.rows.filter((row, index) => row.clips[key] && !rows.some((drawn) => drawn.index === index));
  box.replaceChildren(area.svg, ...without(missing.map((row) => row.name)));
  const nearest = (event) => {
    const [px, py] = pointer(event, box);
    let best = null, least = 14 ** 2;
    for (const dot of dots) {
      const distance = (dot.x - px) ** 2 + (dot.y - py) ** 2;
      if (distance < least) [best, least] = [dot, distance];
    }
    return best;
  };
  area.svg.addEventListener("pointerleave", () => { tip(box, null); rings.replaceChildren(); });
  area.svg.addEventListener("pointermove", (event) => {
    const dot = nearest(event);
    area.svg.classList.toggle("clip-dot", Boolean(dot && data.media[dot.clip]));
    rings.replaceChildren(...dots.filter((other) => dot && other.clip === dot.clip).map((other) => draw("circle", { cx: other.x, cy: other.y, r: 5.5, fill: "none", stroke: "var(--ink)", "stroke-width": 1.5 })));
    if (!dot) return tip(box, null);
    const lines = dots.filter((other) => other.clip === dot.clip).map((other) => [show(other.value, one.digits), data.rows[other.index].name]);
    const shown = data.media[dot.clip] ? [["", "click to see it"]] : [["", "not in this page"]];
    tip(box, [[data.clips[dot.clip].key, ""], ...lines, ...shown], dot.x, dot.y);
  });
  area.svg.addEventListener("click", (event) => {
    const dot = nearest(event);
    if (dot && data.media[dot.clip]) document.dispatchEvent(new CustomEvent("clip", { detail: dot.clip }));
  });
}

$("#legend").append(...data.rows.map((row, index) => make("span", {}, draw("svg", { width: 26, height: 8, "aria-hidden": "true" },
  draw("line", { x1: 1, x2: 25, y1: 4, y2: 4, stroke: looks[index].colour, "stroke-width": 2.5, "stroke-dasharray": looks[index].dash })), row.name)));

for (const [id, plot, has] of [
  ["time", plotTime, (key) => data.rows.some((row) => row.time[key])],
  ["cost", plotCost, (key) => data.rows.some((row) => row.cost > 0 && row.scores[key] && Number.isFinite(number(row.scores[key].mean)))],
  ["strip", plotStrip, (key) => data.rows.some((row) => row.clips[key] && row.clips[key].some((value) => Number.isFinite(number(value))))],
]) {
  const columns = data.columns.filter((one) => has(one.key)), select = $(`#${id} select`);
  menu(select, headings(columns), data.main, plot);
  if (columns.length) new ResizeObserver(() => plot(select.value)).observe($(`#${id}`));
  if (!columns.length) $(`#${id}`).replaceChildren(make("p", { className: "note" }, { time: "No column is measured over time.", cost: "No row has a measured cost.", strip: "No column has values by clip." }[id]));
}

// Tables --------------------------------------------------------------------------------------------------------------

function table(head, rows, fit = true) {
  const body = rows.map(({ kind, cells }) => make("tr", { className: kind || "" }, ...cells.map((cell, index) => {
    const { text, small, best } = typeof cell === "string" ? { text: cell } : cell;
    const element = index ? make("td", { className: best ? "best" : "" }, text) : make("th", { scope: "row", className: "name" }, text);
    if (best) element.append(make("span", { className: "hidden" }, " best"));
    if (small) element.append(make("small", {}, small));
    return element;
  })));
  const titles = head.map((title, index) => make("th", { scope: "col", className: index ? "" : "name" }, title));
  const whole = make("table", { className: `scores${fit ? " fit" : ""}` }, make("thead", {}, make("tr", {}, ...titles)), make("tbody", {}, ...body));
  return make("div", { className: "wide", tabIndex: 0 }, whole);
}

function breakdown(key) {
  const one = column(key), parts = [];
  for (const label of ["camera", "style"]) {
    const names = [...new Set(data.rows.flatMap((row) => Object.entries(row.by[label] || {}).filter(([, scores]) => scores[key]).map(([name]) => name)))].sort();
    if (!names.length) continue;
    const scores = data.rows.map((row) => names.map((name) => row.by[label]?.[name]?.[key] || {}));
    const best = names.map((_, at) => {
      const values = scores.filter((_, row) => made(data.rows[row])).map((cells) => number(cells[at].mean)).filter((value) => !Number.isNaN(value));
      return one.better && values.length > 1 ? Math[one.better === "higher" ? "max" : "min"](...values) : NaN;
    });
    const rows = data.rows.map((row, index) => ({ kind: row.kind, cells: [row.name, ...scores[index].map((score, at) => {
      const known = Number.isFinite(number(score.low)) && Number.isFinite(number(score.high));
      return { text: show(score.mean, one.digits), small: known ? `[${show(score.low, one.digits)}, ${show(score.high, one.digits)}]` : "", best: made(row) && number(score.mean) === best[at] };
    })] }));
    const most = names.map((_, at) => Math.max(0, ...scores.map((cells) => cells[at].n || 0)));
    parts.push(make("div", {}, make("h3", {}, `${one.title} by ${label} (clips)`), table(["row", ...names.map((name, at) => `${name} (${most[at]})`)], rows)));
  }
  $("#breakdown-tables").replaceChildren(...parts);
}

const broken = data.columns.filter((one) => data.rows.some((row) => Object.values(row.by).some((labels) => Object.values(labels).some((scores) => scores[one.key]))));
menu($("#breakdown-column"), headings(broken), data.main, breakdown);
if (!broken.length) $("#breakdown").lastElementChild.replaceChildren(make("p", { className: "note" }, "The clips have no camera or style to compare by."));
if (!broken.length) $("#breakdown .controls").hidden = true;

const pairs = [...new Set(data.comparisons.map(({ a, b }) => JSON.stringify([a, b])))];
const both = pairs.map((pair) => JSON.parse(pair).filter((row) => made(data.rows[row])).length);
const named = (pair) => JSON.parse(pair).map((row) => data.rows[row].name).join(" − ");
// two rows that were made are most worth a look
menu($("#pair"), pairs.map((pair) => [pair, named(pair)]), pairs[both.indexOf(Math.max(...both))], (pair) => {
  const [a, b] = JSON.parse(pair);
  const lines = data.columns.flatMap(({ key }) => data.comparisons.filter((one) => one.column === key && one.a === a && one.b === b));
  const rows = lines.map((one) => {
    const { title, digits, better } = column(one.column), good = number(one.difference) > 0 === (better === "higher");
    const known = Number.isFinite(number(one.low)) && Number.isFinite(number(one.high));
    const verdict = !better || number(one.p_holm) >= 0.05 || Number.isNaN(number(one.p_holm)) ? "" : good ? "first is better" : "second is better";
    return { cells: [title, show(one.difference, digits), known ? `[${show(one.low, digits)}, ${show(one.high, digits)}]` : "–", chance(one.p), chance(one.p_holm), String(one.n), verdict] };
  });
  $("#pair-table").replaceChildren(table(["column", "difference", "95% interval", "p", "Holm p", "clips", "at Holm p < 0.05"], rows));
});
if (!pairs.length) $("#pair-table").replaceChildren(make("p", { className: "note" }, "There is no pair of rows to compare."));
if (!pairs.length) $("#pairs .controls").hidden = true;

function chance(p) {
  p = number(p);
  return Number.isNaN(p) ? "–" : p < 0.0001 ? "< 0.0001" : p.toFixed(4);
}
