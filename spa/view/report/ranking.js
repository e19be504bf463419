// --- The head of the page ---

function drawHead() {
  $("title").textContent = report.title;
  const parts = report.folders.map((folder, i) => {
    const mean = isNumber(folder.mean) ? [", mean realism ", element("b", {}, digits(folder.mean))]
      : [];
    const failed = folder.failed.length ? [`, ${folder.failed.length} not scored`] : [];
    return [isPair ? element("span", {}, element("b", {}, letters[i]), " is ", bdi(folder.name),
      ": ") : null, plural(folder.count, "video"), ...(isPair ? [] : mean), ...failed, ". "];
  });
  $("summary").append(...parts.flat().filter(Boolean), report.basis);
  for (const note of report.notes) $("notes").append(element("p", { class: "note" }, note));
  if (report.comparison) drawComparison(report.comparison);
  drawDistribution();
  const rows = report.folders.flatMap((folder, i) => folder.failed.map((failure) => element("tr", {},
    element("td", {}, isPair ? `${letters[i]} · ` : null, bdi(failure.name)),
    element("td", {}, failure.error))));
  $("failed").hidden = !rows.length;
  $("failed").querySelector("tbody").append(...rows);
  if (!report.videos.some((video) => warningsOf(video).length)) $("warned-label").hidden = true;
}
// Others' text in its own direction; long names may break after what joins words.
function bdi(text) {
  const parts = text.split(/(?<=[_\-./])/);
  return element("bdi", {}, ...parts.flatMap((part, i) => (i ? [element("wbr"), part] : [part])));
}
const warningsOf = (video) => video.sides.filter(Boolean).flatMap((side) => side.warnings);

function drawComparison(compared) {
  const interval = (found, format) => (isNumber(found.low)
    ? `95% from ${format(found.low)} to ${format(found.high)}` : "too few for an interval");
  const percent = (value) => (isNumber(value) ? `${Math.round(100 * value)}%` : "–");
  const entries = [
    ["Mean of A", digits(compared.mean_a), plural(report.folders[0].count, "video")],
    ["Mean of B", digits(compared.mean_b), plural(report.folders[1].count, "video")],
    ["A less B", signed(compared.difference.value), interval(compared.difference, signed)],
    ["A wins", percent(compared.win_rate.value), interval(compared.win_rate, percent)],
  ];
  const common = `of ${plural(compared.num_common, "name")} in both`;
  $("comparison").append(...entries.map(([name, value, detail], i) => element("div", {},
    element("dt", {}, name), element("dd", {}, value, element("small", {}, detail),
      i < 2 ? null : element("small", {}, common)))));
  $("comparison").hidden = false;
}

// A dot for each video along 0 to 1, stacked where they are many.
function drawDistribution() {
  const figure = $("distribution"), width = Math.max(figure.clientWidth, 200);
  const x = (value) => 6 + value * (width - 12);
  const dots = report.videos.flatMap((video) => video.sides.map((side, i) => ({ video, side, i })))
    .filter(({ side }) => side && isNumber(side.realism));
  const radius = dots.length > 400 ? 2 : 4;
  dots.sort((a, b) => a.side.realism - b.side.realism);
  const columns = new Map();
  for (const dot of dots) {
    const column = Math.round(x(dot.side.realism) / (2 * radius + 1));
    columns.set(column, [...(columns.get(column) || []), dot]);
  }
  const most = Math.max(1, ...[...columns.values()].map((all) => all.length));
  const step = Math.min(2 * radius + 1, 72 / most), base = 2 * radius + step * (most - 1) + 2;
  const svg = drawn("svg", { role: "img", height: base + 30, "aria-label":
    `Realism of ${plural(dots.length, "video")}, from 0 to 1` },
  drawn("defs", {}, drawn("linearGradient", { id: "scale" },
    ...[0, 0.25, 0.5, 0.75, 1].map((s) => drawn("stop", { offset: s, "stop-color": colour(s) })))),
  drawn("rect", { x: 6, y: base + 5, width: width - 12, height: 3, rx: 1.5,
    fill: "url(#scale)" }));
  for (const [share, label, anchor] of [[0, "0 surprising motion", "start"], [0.5, isPair ? "● A  0.5  ○ B" : "0.5", "middle"],
    [1, "usual motion 1", "end"]]) {
    svg.append(drawn("text", { x: x(share), y: base + 25, "text-anchor": anchor }, label));
  }
  for (const [column, all] of columns) all.forEach(({ video, side, i }, level) => {
    const dot = drawn("circle", { cx: column * (2 * radius + 1), r: radius,
      cy: base - radius - level * step, class: i ? "dot ring" : "dot mark",
      fill: i ? null : colour(side.realism) }, drawn("title", {}, `${video.name}: ` +
      `${isPair ? letters[i] + " " : ""}${digits(side.realism)}`));
    dot.addEventListener("click", () => open(video));
    svg.append(dot);
  });
  figure.replaceChildren(svg);
  figure.hidden = dots.length < 3;
}

// --- The ranking ---

const first = (video) => video.sides.find(Boolean);
const lowest = (side) => (side && side.low ? side.low.value : null);
const columns = isPair ? [
  { key: "rank", title: "", class: "rank number", cell: (video) => String(video.rank) },
  { key: "thumb", title: "", class: "thumb", cell: thumbCell },
  { key: "name", title: "Video", class: "name", value: (v) => v.name, cell: nameCell },
  { key: "a", title: "A", class: "score number", value: (v) => v.sides[0]?.realism,
    cell: (v) => element("b", {}, digits(v.sides[0]?.realism)) },
  { key: "b", title: "B", class: "number optional", value: (v) => v.sides[1]?.realism,
    cell: (v) => digits(v.sides[1]?.realism) },
  { key: "difference", title: "A less B", class: "number optional", value: (v) => v.difference,
    cell: (v) => signed(v.difference) },
  { key: "forest", title: "● A  ○ B", class: "forest optional", cell: (v) => forest(v.sides) },
  { key: "spark", title: "Over time", class: "spark", cell: (v) => sparkline(v.sides) },
] : [
  { key: "rank", title: "", class: "rank number", cell: (video) => String(video.rank) },
  { key: "thumb", title: "", class: "thumb", cell: thumbCell },
  { key: "name", title: "Video", class: "name", value: (v) => v.name, cell: nameCell },
  { key: "realism", title: "Realism", class: "score number", value: (v) => first(v).realism,
    cell: (v) => element("b", {}, digits(first(v).realism)) },
  { key: "spread", title: "Spread", class: "number muted optional", value: (v) => first(v).spread,
    cell: (v) => (isNumber(first(v).spread) ? `± ${digits(first(v).spread)}` : "–") },
  { key: "forest", title: "0 to 1", class: "forest optional", cell: (v) => forest(v.sides) },
  { key: "spark", title: "Over time", class: "spark", cell: (v) => sparkline(v.sides) },
  { key: "lowest", title: "Lowest", class: "number muted optional", value: (v) => lowest(first(v)),
    cell: (v) => digits(lowest(first(v))) },
];
const ascendingFirst = new Set(["name", "lowest"]);
const sorting = isPair ? { key: "difference", order: "descending" }
  : { key: "realism", order: "descending" };
const rows = new Map();
let shown = [];

function thumbCell(video) {
  const side = video.sides.find((s) => s && s.thumbnail);
  return side ? element("img", { src: side.thumbnail, alt: "", loading: "lazy", decoding: "async" })
    : element("span");
}
function nameCell(video) {
  const side = first(video), details = [];
  if (isNumber(side.frames)) details.push(plural(side.frames, "frame"));
  if (isNumber(side.tracks)) details.push(plural(side.tracks, "track"));
  if (isPair && !video.sides[1]) details.push("only in A");
  if (isPair && !video.sides[0]) details.push("only in B");
  const warnings = warningsOf(video).length;
  if (warnings) details.push(plural(warnings, "warning"));
  const button = element("button", { type: "button", class: "open" }, bdi(video.name));
  const cell = document.createDocumentFragment();
  cell.append(button, element("small", {}, details.join(" · ")));
  return cell;
}

function drawTable() {
  const head = $("ranking").querySelector("thead tr");
  for (const column of columns) {
    const cell = element("th", { scope: "col", class: column.class, "data-key": column.key });
    if (column.value) {
      const button = element("button", { type: "button" }, column.title);
      button.addEventListener("click", () => sortBy(column.key));
      cell.append(button);
      for (const order of ["descending", "ascending"]) {
        $("sort").append(element("option", { value: `${column.key} ${order}` },
          `${column.title} ${order === "ascending" ? "↑" : "↓"}`));
      }
    } else if (column.title) cell.textContent = column.title;
    else cell.append(element("span", { class: "visually-hidden" },
      column.key === "rank" ? "Rank" : "Picture"));
    head.append(cell);
  }
  for (const video of report.videos) {
    const row = element("tr", {}, ...columns.map((column) =>
      element("td", { class: column.class }, column.cell(video))));
    row.addEventListener("click", () => {
      if (!String(getSelection())) open(video);
    });
    rows.set(video, row);
  }
  $("sort").addEventListener("change", () => sortBy(...$("sort").value.split(" ")));
  for (const id of ["search", "from", "to", "warned"]) $(id).addEventListener("input", arrange);
  $("tools").addEventListener("submit", (event) => event.preventDefault());
  arrange();
}

function sortBy(key, order) {
  const usual = ascendingFirst.has(key) ? "ascending" : "descending";
  const other = usual === "ascending" ? "descending" : "ascending";
  sorting.order = order || (sorting.key === key && sorting.order === usual ? other : usual);
  sorting.key = key;
  arrange();
}

const collator = new Intl.Collator("en", { numeric: true });
function arrange() {
  const { key, order } = sorting, { value } = columns.find((column) => column.key === key);
  const sign = order === "ascending" ? 1 : -1;
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const bounds = [$("from"), $("to")].map((input) => input.valueAsNumber);
  const isIn = (side) => side && (Number.isNaN(bounds[0]) || side.realism >= bounds[0]) &&
    (Number.isNaN(bounds[1]) || side.realism <= bounds[1]) &&
    (isNumber(side.realism) || bounds.every(Number.isNaN));
  shown = report.videos.filter((video) =>
    words.every((word) => video.name.toLowerCase().includes(word)) && video.sides.some(isIn) &&
    (!$("warned").checked || warningsOf(video).length));
  shown.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (typeof x === "string") return sign * collator.compare(x, y);
    if (!isNumber(x) || !isNumber(y)) return isNumber(y) - isNumber(x); // last, either way
    return sign * (x - y) || collator.compare(a.name, b.name);
  });
  for (const cell of $("ranking").querySelectorAll("th")) {
    if (cell.dataset.key === key) cell.setAttribute("aria-sort", order);
    else cell.removeAttribute("aria-sort");
  }
  $("sort").value = `${key} ${order}`;
  const none = element("tr", {}, element("td", { class: "empty", colspan: columns.length },
    report.videos.length ? "No video is like that." : "No video was scored."));
  $("ranking").querySelector("tbody").replaceChildren(
    ...(shown.length ? shown.map((video) => rows.get(video)) : [none]));
  $("count").textContent = shown.length === report.videos.length
    ? plural(shown.length, "video") : `${shown.length} of ${plural(report.videos.length, "video")}`;
}

document.addEventListener("keydown", (event) => {
  if ($("viewer").open || event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target.matches("input, select");
  if (event.key === "/" && !isTyping) {
    event.preventDefault();
    $("search").focus();
  }
  if (event.key === "Escape" && event.target === $("search")) {
    $("search").value = "";
    arrange();
  }
  if (["ArrowDown", "ArrowUp"].includes(event.key) &&
      (!isTyping || event.target === $("search"))) {
    const buttons = [...$("ranking").querySelectorAll(".open")];
    const at = buttons.indexOf(document.activeElement);
    const step = event.key === "ArrowDown" ? 1 : -1;
    if (at < 0 && step < 0) return;
    const next = buttons[clamp(at + step, 0, buttons.length - 1)];
    if (next && (at >= 0 || event.target === $("search") || event.target === document.body)) {
      event.preventDefault();
      next.focus();
      next.scrollIntoView({ block: "nearest" });
    }
  }
});

