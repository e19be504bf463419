// --- Its score over time ---

const plot = { x: null, y: null };
function drawPlot() {
  const holder = $("plot"), width = Math.max(holder.clientWidth, 200), height = 168;
  const sides = state.video.sides, curves = sides.filter(Boolean).map((side) => side.curve);
  const hasCurve = curves.some((curve) => curve.some(isNumber));
  const [low, high] = state.isWhole ? [0, 1] : extent(curves);
  const [left, right, top, bottom] = [46, width - 8, 10, height - 26];
  plot.x = (share) => left + share * (right - left);
  plot.y = (value) => top + (bottom - top) * (high - value) / (high - low || 1);
  plot.share = (pixel) => (pixel - left) / (right - left);
  plot.bottom = bottom;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const stops = Array.from({ length: 9 }, (_, i) => high + (low - high) * i / 8);
  svg.append(drawn("defs", {}, drawn("linearGradient", { id: "axis-scale", x2: 0, y2: 1 },
    ...stops.map((value, i) => drawn("stop", { offset: i / 8, "stop-color": colour(value) })))));
  svg.append(drawn("rect", { x: left - 8, y: top, width: 3, height: bottom - top, rx: 1.5,
    fill: "url(#axis-scale)" }));
  for (let i = 0; i <= 2; i += 1) {
    const value = low + (high - low) * i / 2, y = plot.y(value);
    svg.append(drawn("path", { d: `M${left} ${y}H${right}`, class: "grid" }),
      drawn("text", { x: left - 14, y: y + 4, "text-anchor": "end" },
        digits(value, high - low < 0.05 ? 3 : 2)));
  }
  const total = duration(), step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600]
    .find((s) => total / s <= Math.max(2, width / 90)) || 1800;
  for (let i = 0; i * step <= total + 1e-9; i += 1) {
    svg.append(drawn("text", { x: plot.x(i * step / total), y: height - 6,
      "text-anchor": i === 0 ? "start" : (i + 0.4) * step > total ? "end" : "middle" },
    total < 60 ? `${+(i * step).toFixed(1)} s` : `${Math.floor(i * step / 60)}:` +
      `${String(i * step % 60).padStart(2, "0")}`));
  }
  sides.forEach((side, i) => {
    if (!side) return;
    const count = total * (side.fps || 10);
    for (const cut of side.cuts) {
      const x = plot.x(cut / count);
      svg.append(drawn("path", { d: `M${x} ${top}V${bottom}`, class: "cut" }),
        drawn("text", { x: x + 4, y: top + 9 }, "cut"));
    }
    svg.append(drawn("path", { d: pathOf(side.curve, plot.x, plot.y, count),
      class: i ? "line second" : "line" }));
    for (const drop of side.drops) svg.append(drawn("circle", { r: 3.5, class: "drop-mark",
      cx: plot.x((drop.frame + 0.5) / count), cy: plot.y(drop.value) }));
    if (isPair) {
      const last = side.curve.findLastIndex(isNumber);
      const other = sides[1 - i]?.curve[last];
      const isAbove = isNumber(other) ? side.curve[last] > other || (side.curve[last] === other && !i)
        : !i;
      if (last >= 0) svg.append(drawn("text", { x: plot.x((last + 0.5) / count) - 2,
        y: plot.y(side.curve[last]) + (isAbove ? -8 : 16), "text-anchor": "end" }, letters[i]));
    }
  });
  if (!hasCurve) svg.append(drawn("text", { x: width / 2, y: height / 2, "text-anchor": "middle" },
    "no score per frame"));
  svg.append(drawn("g", { id: "cursor" }, drawn("line", { y1: top - 4, y2: bottom }),
    ...sides.map(() => drawn("circle", { r: 4.5 }))));
  holder.replaceChildren(svg);
  holder.setAttribute("aria-valuemax", framesOf(longestSide()) - 1);
  drawCursor();
}

function drawCursor() {
  if (!state.video || !plot.x) return;
  const time = now(), side = longestSide(), cursor = $("cursor");
  const x = plot.x(clamp(time / duration(), 0, 1));
  cursor.firstChild.setAttribute("x1", x);
  cursor.firstChild.setAttribute("x2", x);
  const values = state.video.sides.map((s) =>
    (s ? s.curve[Math.floor(time * (s.fps || 10) + 1e-3)] : null));
  values.forEach((value, i) => {
    const dot = cursor.children[i + 1];
    dot.setAttribute("visibility", isNumber(value) ? "visible" : "hidden");
    if (!isNumber(value)) return;
    dot.setAttribute("cx", x);
    dot.setAttribute("cy", plot.y(value));
    dot.setAttribute("fill", colour(value));
  });
  const frame = clamp(Math.floor(time * (side.fps || 10) + 1e-3), 0, framesOf(side) - 1);
  const said = values.map((value, i) => (isPair ? `${letters[i]} ` : "") +
    (isNumber(value) ? digits(value) : "no score")).join(", ");
  const shownTime = seconds(frame / (side.fps || 10));
  $("clock").textContent = `${shownTime} · frame ${frame} · ${said}`;
  $("plot").setAttribute("aria-valuenow", frame);
  $("plot").setAttribute("aria-valuetext", `frame ${frame}, ${shownTime}, ${said}`);
}

function allDrops() {
  return state.video.sides.flatMap((side, i) => (side ? side.drops.map((drop) =>
    ({ ...drop, i, side, time: (drop.frame + 0.5) / (side.fps || 10) })) : []))
    .sort((a, b) => a.time - b.time);
}
function jumpTo(drop) {
  pause();
  seekFrame(drop.frame, drop.side);
}
function drawDrops() {
  const drops = allDrops();
  const buttons = drops.map((drop) => {
    const said = `${isPair ? letters[drop.i] + " " : ""}${seconds(drop.frame / (drop.side.fps || 10))}`;
    const button = element("button", { type: "button", class: "plain", "aria-label":
      `Jump to the drop at ${said}, score ${digits(drop.value)}` }, `${said} · ${digits(drop.value)}`);
    button.addEventListener("click", () => jumpTo(drop));
    return button;
  });
  if (buttons.length) buttons.unshift(element("span", { class: "muted" }, "Drops at"));
  $("drops").replaceChildren(...buttons);
}

function seekToPointer(event) {
  const box = $("plot").getBoundingClientRect();
  pauseForScrubbing();
  const side = longestSide();
  seekFrame(Math.floor(clamp(plot.share(event.clientX - box.left), 0, 1) * framesOf(side)), side);
}
let wasPlaying = false;
function pauseForScrubbing() { if (isPlaying()) { wasPlaying = true; pause(); } }
$("plot").addEventListener("pointerdown", (event) => {
  if (event.button) return;
  wasPlaying = false;
  $("plot").setPointerCapture(event.pointerId);
  seekToPointer(event);
});
$("plot").addEventListener("pointermove", (event) => {
  if ($("plot").hasPointerCapture(event.pointerId)) seekToPointer(event);
});
$("plot").addEventListener("pointerup", () => { if (wasPlaying) play(); wasPlaying = false; });

function toNeighbour(step) {
  const video = shown[shown.indexOf(state.video) + step];
  if (video) open(video);
}
$("play").addEventListener("click", toggle);
$("close").addEventListener("click", () => viewer.close());
$("previous").addEventListener("click", () => toNeighbour(-1));
$("next").addEventListener("click", () => toNeighbour(1));
$("speed").addEventListener("change", () => {
  for (const player of state.players) player.playbackRate = Number($("speed").value);
});
$("whole").addEventListener("click", () => {
  state.isWhole = !state.isWhole;
  $("whole").setAttribute("aria-pressed", state.isWhole);
  drawPlot();
});
$("originals").addEventListener("click", () => {
  const wasOn = isPlaying();
  state.rest = now();
  state.isOriginal = !state.isOriginal;
  $("originals").setAttribute("aria-pressed", state.isOriginal);
  drawPanes();
  if (wasOn) play();
});
viewer.addEventListener("click", (event) => { if (event.target === viewer && isOutside(event)) viewer.close(); });
function isOutside({ clientX: x, clientY: y }) {
  const box = viewer.getBoundingClientRect();
  return x < box.left || x > box.right || y < box.top || y > box.bottom;
}
viewer.addEventListener("close", () => {
  forget();
  const row = rows.get(state.video);
  if (row && row.isConnected) row.querySelector(".open").focus();
  state.video = null;
});
viewer.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
  const isOnButton = event.target.matches("button");
  const last = framesOf(longestSide()) - 1, frame = Number($("plot").getAttribute("aria-valuenow"));
  const actions = {
    ArrowLeft: () => { pause(); seekFrame(frame - 1); },
    ArrowRight: () => { pause(); seekFrame(frame + 1); },
    Home: () => { pause(); seekFrame(0); },
    End: () => { pause(); seekFrame(last); },
    n: () => toNeighbour(1),
    p: () => toNeighbour(-1),
    d: () => {
      const drops = allDrops();
      if (drops.length) jumpTo(drops.find((drop) => drop.time > now() + 1e-3) || drops[0]);
    },
    " ": isOnButton ? null : toggle,
    k: toggle,
  };
  const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action();
});
addEventListener("resize", () => {
  drawDistribution();
  if (viewer.open) drawPlot();
});

drawHead();
drawTable();
