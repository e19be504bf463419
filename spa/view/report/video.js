// --- One video ---

const viewer = $("viewer");
const reduced = matchMedia("(prefers-reduced-motion: reduce)");
const state = { video: null, players: [], urls: [], rest: 0, isWhole: false, isOriginal: false };
const longestSide = () => state.video.sides.filter(Boolean).reduce(
  (a, b) => (lengthOf(b) > lengthOf(a) ? b : a));
const framesOf = (side) => side.curve.length || side.frames || 1;
const lengthOf = (side) => framesOf(side) / (side.fps || 10);
const duration = () => lengthOf(longestSide());

// Base64 in the page to an address for <video>: made when a video is opened.
function mediaUrl(id) {
  const holder = id && $(id);
  if (!holder) return null;
  const bytes = Uint8Array.from(atob(holder.textContent.trim()), (c) => c.charCodeAt(0));
  const url = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
  state.urls.push(url);
  return url;
}

function open(video) {
  const isSame = state.video === video;
  if (!isSame) state.rest = 0;
  state.video = video;
  $("viewer-title").replaceChildren(bdi(video.name));
  drawHeadline();
  drawFacts();
  $("originals").hidden = !isPair;
  const at = shown.indexOf(video);
  $("previous").disabled = at <= 0;
  $("next").disabled = at < 0 || at >= shown.length - 1;
  drawPanes();
  if (!viewer.open) {
    viewer.showModal();
    $("play").focus();
  }
  drawDrops();
  drawPlot();
  viewer.scrollTop = 0;
  if (!reduced.matches) play();
  if ([$("previous"), $("next")].includes(document.activeElement) &&
      document.activeElement.disabled) $("play").focus();
  if ($("play").disabled) $("plot").focus(); // keys are heard where the focus is
}

function drawHeadline() {
  const parts = [];
  state.video.sides.forEach((side, i) => {
    if (!side) return;
    if (parts.length) parts.push(" · ");
    parts.push(isPair ? `${letters[i]} ` : "Realism ", element("b", {}, digits(side.realism)),
      isNumber(side.spread) ? ` ± ${digits(side.spread)}` : "");
    if (!isPair && side.meaning) parts.push(`: ${side.meaning}`);
  });
  if (isNumber(state.video.difference)) {
    parts.push(` · A less B ${signed(state.video.difference)}`);
  }
  $("headline").replaceChildren(...parts);
}

function drawFacts() {
  const facts = [];
  state.video.sides.forEach((side, i) => {
    if (!side) return;
    const add = (name, value, wide) => {
      if (value !== null && value !== undefined && value !== "") facts.push(element("div",
        { class: wide ? "wide" : null }, element("dt", {}, isPair ? `${letters[i]} · ${name}` : name),
        element("dd", {}, value)));
    };
    const size = side.size ? ` at ${side.size[0]} × ${side.size[1]}` : "";
    add("Frames", isNumber(side.frames) ? `${side.frames}${size}` : "");
    add("Frame rate", isNumber(side.fps) ? `${+side.fps.toFixed(2)} a second` : "");
    add("Tracks", isNumber(side.tracks) ? side.tracks.toLocaleString("en") : "");
    add("Average Jaccard", isNumber(side.jaccard) ? digits(side.jaccard) : "");
    add("Points within", isNumber(side.within) ? digits(side.within) : "");
    add("Visibility right", isNumber(side.visibility) ? digits(side.visibility) : "");
    for (const warning of side.warnings) add("Warning", warning, true);
    for (const note of side.notes) add("Note", note, true);
    add("File", bdi(side.path), true);
  });
  $("facts").replaceChildren(...facts);
}

function drawPanes() {
  forget();
  const panes = [];
  const pane = (side, id, label) => {
    const url = side && mediaUrl(id);
    let shownThere;
    if (url) {
      shownThere = element("video", { playsinline: "", preload: "auto", "aria-label": label,
        width: side.pixels?.[0], height: side.pixels?.[1] });
      shownThere.muted = true;
      shownThere.src = url;
      shownThere.addEventListener("click", toggle);
      shownThere.addEventListener("ended", onEnded);
      shownThere.addEventListener("loadedmetadata", () => {
        shownThere.currentTime = clamp(state.rest, 0, shownThere.duration);
        shownThere.playbackRate = Number($("speed").value);
      });
      state.players.push(shownThere);
    } else {
      shownThere = element("div", { class: "absent" },
        side ? side.absent || "no video" : "not in this folder");
    }
    panes.push(element("figure", {}, shownThere, element("figcaption", {}, label)));
  };
  const [a, b] = state.video.sides;
  if (isPair) {
    const kind = state.isOriginal ? "original" : "painted";
    const said = state.isOriginal ? "original" : "points by score, rings are lost";
    pane(a, a && a[kind], `A · ${said}`);
    pane(b, b && b[kind], `B · ${said}`);
  } else if (a.original || a.painted) {
    pane(a, a.original, "Original");
    pane(a, a.painted, "Points by score: red surprises, blue does not, rings are lost");
  } else pane(a, null, "");
  $("panes").style.gridTemplateColumns = panes.length === 1 ? "1fr" : "";
  $("panes").replaceChildren(...panes);
  $("play").disabled = $("speed").disabled = !state.players.length;
  $("play").textContent = "Play";
}

function forget() {
  for (const player of state.players) {
    player.pause();
    player.removeAttribute("src");
    player.load();
  }
  state.urls.forEach((url) => URL.revokeObjectURL(url));
  state.players = [];
  state.urls = [];
}

// The longest leads; the others follow it.
const leader = () => state.players.reduce((a, b) =>
  (!a || (b.duration || 0) > (a.duration || 0) + 0.01 ? b : a), null);
function now() {
  const player = leader();
  return player && player.readyState ? player.currentTime : state.rest;
}
const isPlaying = () => { const player = leader(); return !!player && !player.paused; };

function play() {
  if (!state.players.length) return;
  if (now() > duration() - 0.5 / (longestSide().fps || 10)) seek(0);
  for (const player of state.players) player.play().catch(() => {});
  $("play").textContent = "Pause";
  keepFollowing();
}
function keepFollowing() {  // one chain of frames, however often it is asked for
  cancelAnimationFrame(state.chain);
  state.chain = requestAnimationFrame(follow);
}
function pause() {
  for (const player of state.players) player.pause();
  $("play").textContent = "Play";
  state.rest = now();
  drawCursor();
}
function toggle() { if (isPlaying()) pause(); else play(); }
function onEnded(event) {
  if (event.target !== leader()) return;
  seek(0);
  for (const player of state.players) player.play().catch(() => {});
  keepFollowing();  // a frame that came while it was over has ended the chain
}
function seek(time) {
  state.rest = clamp(time, 0, duration());
  for (const player of state.players) {
    if (player.readyState) player.currentTime = Math.min(state.rest, player.duration);
  }
  drawCursor();
}
function seekFrame(frame, side = longestSide()) {
  seek((clamp(frame, 0, framesOf(side) - 1) + 0.5) / (side.fps || 10));
}
function follow() {
  if (!viewer.open) return;
  const lead = leader();
  if (lead) for (const player of state.players) {
    const late = lead.currentTime - player.currentTime;
    const isOver = lead.currentTime > player.duration - 0.02;
    if (player !== lead && !isOver && !player.seeking && Math.abs(late) > 0.06) {
      player.currentTime = lead.currentTime;
      if (!lead.paused && player.paused) player.play().catch(() => {});
    }
  }
  drawCursor();
  if (isPlaying()) keepFollowing();
}

