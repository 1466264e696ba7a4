// The plots. They are drawn in the page's own pixels, so that letters keep their size on a phone.

const HIGH = 300;
const widthOf = (box) => Math.max(280, box.clientWidth);

function scale(low, high, from, to) {
  return (value) => from + ((value - low) / (high - low)) * (to - from);
}

// [low, high] of what is finite and a little around it; null where nothing is.
function span(values, around = 0.06) {
  let low = Infinity, high = -Infinity;
  for (const value of values.filter(Number.isFinite)) [low, high] = [Math.min(low, value), Math.max(high, value)];
  if (low > high) return null;
  const more = (high - low || Math.abs(high) || 1) * around;
  return [low - more, high + more];
}

function ticks(low, high, count = 5) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const all = [];
  for (let at = Math.ceil(low / step); at * step <= high; at++) all.push(at * step);
  return { all, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

function frame(label, width, height, left) {
  const svg = draw("svg", { width, height, role: "img", "aria-label": label });
  return { svg, left, right: width - 12, top: 10, bottom: height - 40 };
}

function line(area, x1, y1, x2, y2, looks = { class: "axis" }) {
  area.svg.append(draw("line", { x1, y1, x2, y2, ...looks }));
}

function write(area, x, y, anchor, text, looks = {}) {
  area.svg.append(draw("text", { x, y, "text-anchor": anchor, ...looks }, text));
}

function tickX(area, at, text) {
  line(area, at, area.top, at, area.bottom);
  write(area, at, area.bottom + 16, "middle", text);
}

function axisX(area, range, x, title) {
  const { all, digits } = ticks(...range, (area.right - area.left) / 90);
  for (const value of all) tickX(area, x(value), value.toFixed(digits));
  write(area, area.right, area.bottom + 33, "end", title);
}

function axisY(area, range, y) {
  const { all, digits } = ticks(...range);
  for (const value of all) {
    line(area, area.left, y(value), area.right, y(value));
    write(area, area.left - 6, y(value) + 4, "end", value.toFixed(digits));
  }
}

// The end of a long name says more than its beginning.
const shorten = (name, maxLength) => (name.length > maxLength ? `…${[...name].slice(1 - Math.floor(maxLength)).join("")}` : name);

// Shows lines of [bold, text] near a point of the box, in pixels; null hides.
function tip(box, lines, x = 0, y = 0) {
  box.querySelector(".tip")?.remove();
  if (!lines) return;
  const rows = lines.map(([bold, text]) => make("div", {}, make("b", {}, bold), ` ${text}`));
  const tooltip = make("div", { className: "tip" }, ...rows);
  box.append(tooltip);
  tooltip.style.left = `${Math.max(0, Math.min(box.clientWidth - tooltip.offsetWidth, x + 12))}px`;
  tooltip.style.top = `${y + 12}px`;
}

function pointer(event, box) {
  const edge = box.querySelector("svg").getBoundingClientRect();
  return [event.clientX - edge.left, event.clientY - edge.top];
}

// What of a plot to show: its picture, and which rows are not in it.
function put(box, area, missing) {
  const names = data.rows.filter((_, row) => missing(row)).map((row) => row.name);
  box.replaceChildren(area.svg);
  if (names.length) box.append(note(`Not drawn, without a finite value: ${names.join(", ")}`));
}

function plotTime(key) {
  const box = $("#time > div"), metric = column(key), wide = widthOf(box);
  const curves = data.rows.map((row) => (row.time[key] || []).map(number));
  const range = span(curves.flat());
  if (!range) return box.replaceChildren(note("No row has finite values."));
  const area = frame(`${metric.title} over time`, wide, HIGH, 52);
  const last = Math.max(1, ...curves.map((curve) => curve.length - 1));
  const x = scale(0, last, area.left, area.right), y = scale(...range, area.bottom, area.top);
  axisX(area, [0, last / data.fps], (seconds) => x(seconds * data.fps), "seconds");
  axisY(area, range, y);
  curves.forEach((curve, row) => {
    let path = "", pen = false;
    curve.forEach((value, index) => {
      if (finite(value)) path += `${pen ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = finite(value);
    });
    const { colour, dash } = looks[row];
    const pencil = { fill: "none", stroke: colour, "stroke-width": 1.8, "stroke-dasharray": dash };
    if (path) area.svg.append(draw("path", { d: path, ...pencil, "stroke-linecap": "round" }));
  });
  const cursor = draw("line", { class: "axis", y1: area.top, y2: area.bottom, visibility: "hidden" });
  area.svg.append(cursor);
  put(box, area, (row) => curves[row].length && !curves[row].some(finite));
  area.svg.addEventListener("pointerleave", () => {
    tip(box, null);
    cursor.setAttribute("visibility", "hidden");
  });
  area.svg.addEventListener("pointermove", (event) => {
    const part = (pointer(event, box)[0] - area.left) / (area.right - area.left);
    const index = Math.max(0, Math.min(last, Math.round(part * last)));
    for (const name of ["x1", "x2"]) cursor.setAttribute(name, x(index));
    cursor.setAttribute("visibility", "visible");
    const entries = data.rows.map((row, at) => [show(curves[at][index], metric.digits), row.name]);
    const values = entries.filter(([value]) => value !== "–");
    tip(box, [[`${(index / data.fps).toFixed(2)} s`, ""], ...values], x(index), 8);
  });
}

function plotCost(key) {
  const box = $("#cost > div"), metric = column(key), wide = widthOf(box);
  const scores = data.rows.map((row) => row.scores[key] || {});
  const has = scores.map((score) => finite(score.mean));
  const priced = data.rows.map((row, index) => has[index] && row.cost > 0);
  const visible = scores.filter((_, index) => has[index]);
  const range = span(visible.flatMap(({ mean, low, high }) => [mean, low, high].map(number)), 0.1);
  const costs = data.rows.filter((_, index) => priced[index]).map((row) => Math.log10(row.cost));
  const [low, high] = [Math.min(...costs) - 0.25, Math.max(...costs) + 0.45];
  const area = frame(`${metric.title} against seconds a video second`, wide, HIGH, 52);
  const x = scale(low, high, area.left, area.right), y = scale(...range, area.bottom, area.top);
  axisY(area, range, y);
  for (let power = Math.floor(low); power <= high; power++) {
    for (const part of [1, 2, 5]) {
      const at = power + Math.log10(part);
      if (at >= low && at <= high) tickX(area, x(at), String(Number((part * 10 ** power).toPrecision(1))));
    }
  }
  write(area, area.right, area.bottom + 33, "end", "seconds a video second, logarithmic");
  data.rows.forEach((row, index) => {
    if (!has[index]) return;
    const score = scores[index], { colour: stroke, dash } = looks[index], level = y(score.mean);
    if (!priced[index]) {
      line(area, area.left, level, area.right, level, { stroke, "stroke-width": 1.4, "stroke-dasharray": dash });
      write(area, area.left + 6, level - 4, "start", row.name);
      return;
    }
    const at = x(Math.log10(row.cost)), flip = at > (area.left + area.right) / 2;
    if (interval(score, 0)) line(area, at, y(score.low), at, y(score.high), { stroke, "stroke-width": 1.6 });
    area.svg.append(draw("circle", { cx: at, cy: level, r: 4.5, fill: stroke }));
    const room = (flip ? at - area.left : area.right - at) - 9;
    const name = shorten(row.name, room / 7.2);
    write(area, at + (flip ? -9 : 9), level + 4, flip ? "end" : "start", name, { class: "ink" });
  });
  put(box, area, (row) => data.rows[row].scores[key] && !has[row]);
}

function plotStrip(key) {
  const box = $("#strip > div"), metric = column(key), wide = widthOf(box), step = 40, letters = wide > 700 ? 27 : 13;
  const all = data.rows.map((row) => (row.clips[key] || []).map(number));
  const rows = data.rows.flatMap((row, index) => (all[index].some(finite) ? [index] : []));
  const area = frame(`${metric.title} of every clip`, wide, rows.length * step + 54, letters * 7.2);
  const range = span(all.flat(), 0.03), x = scale(...range, area.left, area.right);
  axisX(area, range, x, metric.title);
  const dots = [], many = data.clips.length > 300;
  rows.forEach((index, place) => {
    const middle = area.top + (place + 0.5) * step, row = data.rows[index];
    let path = "";
    all[index].forEach((value, clip) => {
      if (!finite(value)) return;
      // the golden ratio scatters neighbours, the same way every time
      const dot = { clip, index, value, x: x(value), y: middle + (((clip * 0.618034) % 1) - 0.5) * step * 0.5 };
      dots.push(dot);
      path += `M${dot.x.toFixed(1)} ${dot.y.toFixed(1)}h0`;
    });
    const points = { "stroke-linecap": "round", "stroke-width": many ? 4 : 6.5, opacity: many ? 0.35 : 0.55 };
    area.svg.append(draw("path", { d: path, stroke: looks[index].colour, ...points }));
    write(area, area.left - 10, middle + 4, "end", shorten(row.name, letters), { class: "ink" });
    const score = row.scores[key] || {}, ink = { stroke: "var(--ink)", "stroke-width": 1.6 };
    if (finite(score.mean)) line(area, x(score.mean), middle - 13, x(score.mean), middle + 13, ink);
    if (interval(score, 0)) line(area, x(score.low), middle, x(score.high), middle, ink);
  });
  const rings = draw("g");
  area.svg.append(rings);
  put(box, area, (row) => data.rows[row].clips[key] && !rows.includes(row));
  const nearest = (event) => {
    const [px, py] = pointer(event, box);
    let best = null, least = 14 ** 2;
    for (const dot of dots) {
      const distance = (dot.x - px) ** 2 + (dot.y - py) ** 2;
      if (distance < least) [best, least] = [dot, distance];
    }
    return best;
  };
  area.svg.addEventListener("pointerleave", () => {
    tip(box, null);
    rings.replaceChildren();
  });
  area.svg.addEventListener("pointermove", (event) => {
    const dot = nearest(event), same = dots.filter((other) => other.clip === dot?.clip);
    const ring = { r: 5.5, fill: "none", stroke: "var(--ink)", "stroke-width": 1.5 };
    rings.replaceChildren(...same.map((other) => draw("circle", { cx: other.x, cy: other.y, ...ring })));
    area.svg.classList.toggle("clip-dot", Boolean(data.media[dot?.clip]));
    if (!dot) return tip(box, null);
    const values = same.map((other) => [show(other.value, metric.digits), data.rows[other.index].name]);
    const hint = data.media[dot.clip] ? "click to see it" : "not in this page";
    tip(box, [[data.clips[dot.clip].key, ""], ...values, ["", hint]], dot.x, dot.y);
  });
  area.svg.addEventListener("click", (event) => {
    const clip = nearest(event)?.clip;
    if (data.media[clip]) document.dispatchEvent(new CustomEvent("clip", { detail: clip }));
  });
}

data.rows.forEach((row, index) => {
  const { colour, dash } = looks[index], pencil = { stroke: colour, "stroke-width": 2.5, "stroke-dasharray": dash };
  const sample = draw("svg", { width: 26, height: 8, "aria-hidden": "true" });
  sample.append(draw("line", { x1: 1, x2: 25, y1: 4, y2: 4, ...pencil }));
  $("#legend").append(make("span", {}, sample, row.name));
});

const PLOTS = [
  ["time", plotTime, (row, key) => row.time[key], "No column is measured over time."],
  ["cost", plotCost, (row, key) => row.cost > 0 && finite(row.scores[key]?.mean), "No row has a measured cost."],
  ["strip", plotStrip, (row, key) => row.clips[key]?.some(finite), "No column has finite values by clip."],
];
for (const [id, plot, has, otherwise] of PLOTS) {
  const columns = data.columns.filter(({ key }) => data.rows.some((row) => has(row, key)));
  const figure = $(`#${id}`), select = figure.querySelector("select");
  if (!columns.length) {
    figure.replaceChildren(note(otherwise));
    continue;
  }
  menu(select, headings(columns), data.main, plot);
  new ResizeObserver(() => plot(select.value)).observe(figure);
}
