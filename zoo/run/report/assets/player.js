// Plays one clip of all rows in sync. The song is the clock: a video that is more than half a frame off is sped up or
// slowed down until it fits, one that is far off jumps. Without a song the longest video is the clock.

const player = { clip: null, clock: null, videos: [], urls: [], frames: 1, playing: false };
const frameTime = 1 / data.fps, FAR = 2; // frames
const shownClips = Object.keys(data.media).map(Number);

// An address for base64 content: some browsers seek in blobs only, not in data addresses.
function address(content, type) {
  const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
  const url = URL.createObjectURL(new Blob([bytes], { type }));
  player.urls.push(url);
  return url;
}

const lastTime = (media) => Math.max(0, (Number.isFinite(media.duration) ? media.duration : 0) - frameTime / 2);
const media = () => [...new Set([player.clock, ...player.videos])].filter(Boolean);
// the middle of a frame, so that rounding never shows the previous frame
const middle = (frame) => (frame + 0.5) * frameTime;
const frameNow = () => Math.min(player.frames - 1, Math.max(0, Math.floor(player.clock.currentTime * data.fps + 1e-3)));

function load(element) {
  return new Promise((done) => {
    element.addEventListener("loadeddata", () => done(true), { once: true });
    element.addEventListener("error", () => done(false), { once: true });
  });
}

async function choose(clip) {
  const again = player.playing;
  pause();
  player.clip = clip;
  for (const element of media()) element.removeAttribute("src");
  for (const url of player.urls.splice(0)) URL.revokeObjectURL(url);
  const { sound, videos } = data.media[clip];
  const loads = [];
  player.videos = [];
  const figures = data.rows.map((row, index) => {
    let picture = make("div", { className: "absent" }, "no video");
    if (videos[index]) {
      picture = make("video", { muted: true, playsInline: true, preload: "auto" });
      picture.setAttribute("aria-label", `${row.name}, ${data.clips[clip].key}`);
      picture.addEventListener("loadedmetadata", () => picture.classList.toggle("tiny", picture.videoWidth < 256));
      loads.push(load(picture));
      picture.src = address(videos[index], "video/mp4");
      player.videos.push(picture);
    }
    const caption = make("figcaption", { className: "row-name" }, swatch(index), make("span", {}, row.name));
    return make("figure", {}, picture, caption, scores(row, clip));
  });
  $("#grid").replaceChildren(...figures);
  const { key, labels } = data.clips[clip];
  $("#clip-name").textContent = [key, labelled(labels)].filter(Boolean).join(" · ");
  for (const button of document.querySelectorAll("#clips button")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.clip) === clip));
  }
  let song = null;
  if (sound) {
    song = make("audio", { preload: "auto", muted: $("#mute").checked });
    const loaded = load(song);
    song.src = address(sound, "audio/mp4");
    if (!(await loaded)) song = null;
  }
  await Promise.all(loads);
  if (player.clip !== clip) return; // another clip was selected meanwhile
  const longest = player.videos.reduce((a, b) => (b.duration > a.duration ? b : a));
  player.clock = song || longest;
  player.frames = Math.max(1, Math.round((longest.duration || 0) * data.fps));
  $("#seek").max = player.frames - 1;
  seek(0);
  if (again) await play();
}

function scores(row, clip) {
  const rows = data.columns.filter((metric) => data.rows.some((other) => other.clips[metric.key])).map((metric) => {
    const value = make("td", {}, show(row.clips[metric.key]?.[clip], metric.digits));
    const score = make("tr", {}, make("th", { scope: "row" }, metric.heading), value);
    score.dataset.column = metric.key;
    score.classList.toggle("sorted", metric.key === $("#sort-column").value);
    return score;
  });
  return make("table", {}, make("tbody", {}, ...rows));
}

function seek(frame) {
  for (const element of media()) element.currentTime = Math.min(middle(frame), lastTime(element));
  tell(frame);
}

function tell(frame) {
  const seconds = `${(frame * frameTime).toFixed(2)} s`;
  $("#seek").value = frame;
  $("#seek").setAttribute("aria-valuetext", seconds);
  $("#clock").textContent = `${seconds} · frame ${frame + 1} of ${player.frames}`;
}

async function play() {
  player.playing = true;
  label();
  try {
    await player.clock.play();
  } catch {
    if (player.playing) pause(); // the browser forbade it, or another clip was chosen
    return;
  }
  for (const video of player.videos) video.play().catch(() => {});
  requestAnimationFrame(follow);
}

function pause() {
  player.playing = false;
  for (const element of media()) element.pause();
  if (player.clock) seek(frameNow());
  label();
}

function label() {
  $("#play").textContent = player.playing ? "Pause" : "Play";
  $("#play").setAttribute("aria-pressed", String(player.playing));
}

// Once a screen refresh: keep the videos with the clock, and go round at the end.
function follow() {
  if (!player.playing) return;
  if (player.clock.ended || player.clock.currentTime >= player.frames * frameTime - 1e-3) {
    for (const element of media()) element.currentTime = 0;
    player.clock.play().catch(() => {});
  }
  const now = player.clock.currentTime;
  for (const video of player.videos) {
    if (video === player.clock || video.seeking) continue;
    const late = Math.min(now, lastTime(video)) - video.currentTime, frames = Math.abs(late) / frameTime;
    if (frames > FAR) video.currentTime = Math.min(now, lastTime(video));
    video.playbackRate = frames > 0.5 ? (late > 0 ? 1.25 : 0.8) : 1;
    if (video.paused && now < lastTime(video)) video.play().catch(() => {});
  }
  tell(frameNow());
  requestAnimationFrame(follow);
}

// Clips ---------------------------------------------------------------------------------------------------------------

function list() {
  const metric = column($("#sort-column").value), row = data.rows[$("#sort-row").value];
  const value = (clip) => (metric && row.clips[metric.key] ? number(row.clips[metric.key][clip]) : NaN);
  const sign = metric && metric.better === "higher" ? 1 : -1; // the worst first; the largest where neither is better
  const worst = (a, b) => Number.isNaN(value(a)) - Number.isNaN(value(b)) || sign * (value(a) - value(b)) || a - b;
  $("#clips").replaceChildren(...[...shownClips].sort(worst).map((clip) => {
    const { key, labels } = data.clips[clip];
    const figure = make("span", {}, metric ? show(value(clip), metric.digits) : "");
    const parts = [make("span", {}, key), figure, make("small", {}, labelled(labels))];
    const button = make("button", { type: "button" }, ...parts);
    button.dataset.clip = clip;
    button.setAttribute("aria-pressed", String(clip === player.clip));
    button.addEventListener("click", () => choose(clip));
    return make("li", {}, button);
  }));
  for (const score of document.querySelectorAll("#grid tr")) {
    score.classList.toggle("sorted", score.dataset.column === $("#sort-column").value);
  }
}

function step(by) {
  const order = [...document.querySelectorAll("#clips button")].map((button) => Number(button.dataset.clip));
  choose(order[(order.indexOf(player.clip) + by + order.length) % order.length]);
}

const KEYS = {
  " ": () => (player.playing ? pause() : play()),
  ArrowLeft: () => go(-1),
  ArrowRight: () => go(1),
  ArrowUp: () => step(-1),
  ArrowDown: () => step(1),
  Home: () => seek(0),
};

if (shownClips.length) {
  const columns = data.columns.filter((metric) => data.rows.some((row) => row.clips[metric.key]));
  const row = String(Math.max(0, data.rows.findIndex(competes)));
  menu($("#sort-row"), data.rows.map(({ name }, index) => [String(index), name]), row, () => {});
  menu($("#sort-column"), headings(columns), data.main, list);
  $("#sort-row").addEventListener("change", list);
  if (!columns.length) list();
  $("#play").addEventListener("click", () => (player.playing ? pause() : play()));
  $("#seek").addEventListener("input", (event) => {
    const frame = Number(event.target.value); // before pausing puts the slider where the clock is
    if (!player.clock) return;
    if (player.playing) pause();
    seek(frame);
  });
  $("#mute").addEventListener("change", (event) => {
    if (player.clock instanceof HTMLAudioElement) player.clock.muted = event.target.checked; // videos have no sound
  });
  document.addEventListener("clip", (event) => {
    choose(event.detail);
    $("#videos").scrollIntoView();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || !player.clock) return;
    // elements that use the key themselves keep it
    const interactive = event.key === " " ? "input, select, button, summary, a" : "input, select, .wide";
    const move = KEYS[event.key];
    if (!move || event.target.closest(interactive)) return;
    event.preventDefault();
    move();
  });
  choose(Number(document.querySelector("#clips button").dataset.clip));
}

function go(by) {
  const frame = (frameNow() + by + player.frames) % player.frames;
  if (player.playing) pause();
  seek(frame);
}
