// The tables that a menu changes: breakdowns by camera, style and figure, and paired comparisons.

// rows: {kind, cells}, the first cell a name, the others text or {text, small, best}.
function table(head, rows) {
  const cellOf = (cell) => {
    const { text, small, best } = typeof cell === "string" ? { text: cell } : cell;
    const element = make("td", { className: best ? "best" : "" }, text);
    if (best) element.append(make("span", { className: "hidden" }, " best"));
    if (small) element.append(make("small", {}, small));
    return element;
  };
  const body = rows.map(({ kind, cells: [name, ...others] }) => {
    const title = make("th", { scope: "row", className: "name" }, name);
    return make("tr", { className: kind || "" }, title, ...others.map(cellOf));
  });
  const titles = head.map((title, at) => make("th", { scope: "col", className: at ? "" : "name" }, title));
  const top = make("thead", {}, make("tr", {}, ...titles));
  const whole = make("table", { className: "scores fit" }, top, make("tbody", {}, ...body));
  return make("div", { className: "wide", tabIndex: 0 }, whole);
}

function breakdown(key) {
  const metric = column(key);
  const parts = ["camera", "style", "figure"].map((label) => {
    const entries = data.rows.flatMap((row) => Object.entries(row.by[label] || {}));
    const names = [...new Set(entries.filter(([, scores]) => scores[key]).map(([name]) => name))].sort();
    if (!names.length) return "";
    const scores = data.rows.map((row) => names.map((name) => row.by[label]?.[name]?.[key] || {}));
    const best = names.map((_, at) => {
      const means = data.rows.flatMap((row, index) => (competes(row) ? [number(scores[index][at].mean)] : []));
      const values = means.filter((value) => !Number.isNaN(value));
      return metric.better && values.length > 1 ? Math[metric.better === "higher" ? "max" : "min"](...values) : NaN;
    });
    const rows = data.rows.map((row, index) => {
      const cells = scores[index].map((score, at) => {
        const text = show(score.mean, metric.digits), small = interval(score, metric.digits);
        return { text, small, best: competes(row) && number(score.mean) === best[at] };
      });
      return { kind: row.kind, cells: [row.name, ...cells] };
    });
    const clips = names.map((_, at) => Math.max(0, ...scores.map((row) => row[at].n || 0)));
    const head = ["row", ...names.map((name, at) => `${name} (${clips[at]})`)];
    return make("div", {}, make("h3", {}, `${metric.title} by ${label} (clips)`), table(head, rows));
  });
  $("#breakdown-tables").replaceChildren(...parts);
}

function compare(pair) {
  const [a, b] = JSON.parse(pair);
  const comparisons = data.comparisons.filter((line) => line.a === a && line.b === b);
  const lines = data.columns.flatMap(({ key }) => comparisons.filter((line) => line.column === key));
  const rows = lines.map((line) => {
    const { title, digits, better } = column(line.column);
    const good = number(line.difference) > 0 === (better === "higher");
    const verdict = better && number(line.p_holm) < 0.05 ? (good ? "first is better" : "second is better") : "";
    const figures = [show(line.difference, digits), interval(line, digits) || "–", chance(line.p), chance(line.p_holm)];
    return { cells: [title, ...figures, String(line.n), verdict] };
  });
  const head = ["column", "difference", "95% interval", "p", "Holm p", "clips", "at Holm p < 0.05"];
  $("#pair-table").replaceChildren(table(head, rows));
}

function chance(p) {
  p = number(p);
  return Number.isNaN(p) ? "–" : p < 0.0001 ? "< 0.0001" : p.toFixed(4);
}

const parted = (row, key) => Object.values(row.by).some((label) => Object.values(label).some((scores) => scores[key]));
const broken = data.columns.filter(({ key }) => data.rows.some((row) => parted(row, key)));
menu($("#breakdown-column"), headings(broken), data.main, breakdown);
$("#breakdown .controls").hidden = !broken.length;
if (!broken.length) $("#breakdown-tables").replaceChildren(note("The clips have no camera, style or figure to compare by."));

const pairs = [...new Set(data.comparisons.map(({ a, b }) => JSON.stringify([a, b])))];
const named = (pair) => JSON.parse(pair).map((row) => data.rows[row].name).join(" − ");
// two competing rows are the most informative pair
const worth = pairs.map((pair) => JSON.parse(pair).filter((row) => competes(data.rows[row])).length);
const first = pairs[worth.indexOf(Math.max(...worth))];
menu($("#pair"), pairs.map((pair) => [pair, named(pair)]), first, compare);
$("#pairs .controls").hidden = !pairs.length;
if (!pairs.length) $("#pair-table").replaceChildren(note("There is no pair of rows to compare."));
