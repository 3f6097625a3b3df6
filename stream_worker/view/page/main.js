// Joins the pieces: one WebSocket that tells what changed, the page that the address names, theme and keys.

import { Bed } from "./bed.js";
import { Replay } from "./replay.js";
import { Ward } from "./ward.js";
import { duration, el, local, PRIORITIES, setText, setTime, SHAPE, utc } from "./words.js";

const $ = (id) => document.getElementById(id);
const THEMES = ["auto", "dark", "light"];
const isDark = matchMedia("(prefers-color-scheme: dark)");
const RETRY_MS = [500, 1000, 2000, 5000];
const SILENT_AFTER_MS = 15_000; // the server says something every 3 s
const LOST = "This page has lost its server and is trying to reach it. What you see is old.";

const replay = new Replay($("replay"));
let socket = null;
let failures = 0;
let heard = [0, 0];
let page = null;
let bed = null; // that is shown
let parts = {};
let wanted = "auto";

function shown() {
  const found = /^#bed=([0-9a-f]+)$/.exec(location.hash);
  return found ? found[1] : "ward";
}

function turn() {
  parts = {};
  page?.close();
  page = shown() === "ward" ? new Ward($("page"), bed) : new Bed($("page"));
  bed = shown() === "ward" ? null : shown();
  ask();
}

function ask() {
  if (socket?.readyState === WebSocket.OPEN) {
    parts = {};
    socket.send(shown());
  }
}

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    heard = clocks();
    ask();
  };
  socket.onmessage = (event) => receive(JSON.parse(new TextDecoder().decode(event.data)));
  socket.onclose = (event) => {
    say(event.reason || LOST);
    setTimeout(reconnect, RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)]);
  };
}

// Some browsers' first clock stands still while the machine sleeps, and the second may be set back.
const clocks = () => [performance.now(), Date.now()];

// A network that is gone, or a server that hangs, closes nothing; neither does a sleep.
function listen() {
  const isSilent = clocks().some((now, i) => now - heard[i] >= SILENT_AFTER_MS);
  if (socket.readyState !== WebSocket.OPEN || !isSilent) return;
  say(LOST);
  socket.close();
}

// A server that was started anew asks for its token again.
async function reconnect() {
  const answer = await fetch("/", { method: "HEAD" }).catch(() => null);
  if (answer?.redirected) location.reload();
  else connect();
}

function receive(change) {
  failures = 0;
  heard = clocks();
  if (change.page !== shown()) return;
  Object.assign(parts, change.set);
  for (const name of change.drop) delete parts[name];
  if (parts.head) head(parts.head);
  page.update(parts, change.set);
}

function head(now) {
  const counts = $("counts");
  const text = JSON.stringify(now.alerts);
  if (counts.dataset.of !== text) {
    counts.dataset.of = text;
    counts.replaceChildren(
      ...PRIORITIES.filter((priority) => now.alerts[priority]).map((priority) =>
        el("span", `badge ${priority}`, `${SHAPE[priority]} ${now.alerts[priority]} ${priority}`),
      ),
    );
    if (!counts.children.length) counts.append(el("span", "calm", "no open alerts"));
  }
  const shown = now.shown < now.beds ? `, the ${now.shown} most in need shown` : "";
  setText($("status"), `${now.beds} bed${now.beds === 1 ? "" : "s"}${shown} · worker ${now.worker}`);
  setTime($("clock"), now.newest);
  replay.show(now.replay);
  $("replay-keys").hidden = !now.replay;
  if (now.link === "lost") say(`${now.link_fault || "Kafka does not answer"}, since ${local(now.link_since)}. What you see is old.`, "grave", utc(now.link_since));
  else if (now.unwatched) say(`The worker is ${now.worker}: alerts are missing until it is back.`);
  else if (now.reading_alerts) say("Loading the alerts: some of those shown may be over already …", "calm");
  else if (now.unfed_s !== null && !now.replay) say(`No readings have come for ${duration(now.unfed_s * 1000)}. What you see is old.`);
  else if (now.reading_back) say("Loading the last hours …", "calm");
  else if (now.behind_s !== null) say(`Not live: values are ${duration(now.behind_s * 1000)} behind the clock.`, "calm");
  else say("");
}

function say(text, tone = "grave", tooltip = "") {
  const banner = $("banner");
  setText(banner, text);
  banner.className = tone;
  banner.title = tooltip;
  banner.hidden = !text;
}

// A browser may keep nothing for pages; it refuses even to be asked then.
function kept() {
  try {
    return localStorage;
  } catch {
    return null;
  }
}

function theme(next) {
  wanted = next ?? kept()?.getItem("theme") ?? wanted;
  kept()?.setItem("theme", wanted);
  document.documentElement.dataset.theme = wanted !== "auto" ? wanted : isDark.matches ? "dark" : "light";
  setText($("theme"), `Theme: ${wanted}`);
  page?.repaint?.();
}

function nextTheme() {
  theme(THEMES[(THEMES.indexOf(wanted) + 1) % THEMES.length]);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target.matches("input");
  if (event.key === "Escape") {
    if (isTyping) event.target.blur();
    else location.hash = "";
  } else if (isTyping) return;
  else if (event.key === "t" || event.key === "T") nextTheme();
  else if (!replay.key(event)) page.key?.(event);
});
$("theme").addEventListener("click", nextTheme);
addEventListener("hashchange", turn);
isDark.addEventListener("change", () => theme());
theme();
turn();
connect();
setInterval(listen, 1000);
