// The ward page: a tile for each bed, in the order of need that the server gives.

import { choices, duration, el, OLD_AFTER_MS, setText, SHAPE, STATE, TREND, utc } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const FILTERS = { all: "All", alerts: "With alerts", stale: "No data" };

// From the reading's time in Kafka to the screen, of the newest 2,000 updates; for measurements.
const lags = (window.vitalcastLags = []);

export class Ward {
  // from : the bed that one comes back from, if any, to be where one was.
  constructor(root, from) {
    this.root = root;
    this.from = from;
    this.tiles = new Map();
    this.filter = "all";
    this.search = el("input");
    this.search.type = "search";
    this.search.placeholder = "Bed or unit";
    this.search.setAttribute("aria-label", "Search beds");
    this.search.addEventListener("input", () => this.sift());
    this.grid = el("div", "grid");
    this.empty = el("p", "empty", "Waiting for readings …");
    const bar = el("nav", "bar");
    const buttons = choices(FILTERS, this.filter, (name) => {
      this.filter = name;
      this.sift();
    });
    bar.append(this.search, ...buttons);
    root.replaceChildren(bar, this.grid, this.empty);
  }

  close() {
    this.root.replaceChildren();
  }

  update(parts, set) {
    for (const [name, value] of Object.entries(set)) {
      const [kind, handle] = name.split(":");
      if (kind === "tile") this.tile(handle).show(value);
      else if (kind === "spark") this.tile(handle).draw(value);
    }
    if (set.order) this.arrange(set.order);
    if (set.order || Object.keys(set).some((name) => name.startsWith("tile:"))) this.sift();
    const newest = parts.head?.newest ?? null;
    for (const tile of this.tiles.values()) tile.age(newest);
  }

  tile(handle) {
    if (!this.tiles.has(handle)) this.tiles.set(handle, new Tile(handle));
    return this.tiles.get(handle);
  }

  // Moves only what is out of place, so that the browser keeps the rest, and the focus where it was.
  arrange(order) {
    const known = new Set(order);
    for (const [handle, tile] of this.tiles) {
      if (known.has(handle)) continue; // else it has ended, or another server answers, which has other handles
      tile.node.remove();
      this.tiles.delete(handle);
    }
    const focused = document.activeElement;
    let place = this.grid.firstElementChild;
    for (const handle of order) {
      const { node } = this.tile(handle);
      if (node === place) place = place.nextElementSibling;
      else this.grid.insertBefore(node, place);
    }
    if (focused?.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
    if (this.from) this.tiles.get(this.from)?.node.focus();
    this.from = null;
    const beds = order.length;
    this.grid.dataset.density = beds <= 8 ? "few" : beds <= 24 ? "some" : "many";
  }

  sift() {
    const words = this.search.value.trim().toLowerCase();
    let count = 0;
    for (const tile of this.tiles.values()) {
      tile.node.hidden = !tile.matches(words, this.filter);
      count += !tile.node.hidden;
    }
    this.empty.hidden = count > 0;
    setText(this.empty, this.tiles.size ? "No bed matches the search and the filter." : "Waiting for readings …");
  }

  key(event) {
    if (event.key === "/") {
      event.preventDefault();
      this.search.focus();
      return;
    }
    const visible = [...this.grid.children].filter((node) => !node.hidden);
    const at = visible.indexOf(document.activeElement);
    const columns = visible.filter((node) => node.offsetTop === visible[0]?.offsetTop).length;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    if (step === undefined || !visible.length) return;
    event.preventDefault();
    visible[at < 0 ? 0 : Math.min(Math.max(at + step, 0), visible.length - 1)].focus();
  }
}

class Tile {
  constructor(handle) {
    this.node = el("a", "tile");
    this.node.href = `#bed=${handle}`;
    this.name = el("b", "name");
    this.unit = el("span", "unit");
    this.badge = el("span", "badge");
    this.aged = el("span", "age");
    const top = el("div", "top");
    top.append(this.name, this.unit, this.badge, this.aged);
    this.rowsNode = el("div", "rows");
    this.alerts = el("div", "alerts");
    this.node.append(top, this.rowsNode, this.alerts);
    this.rows = new Map();
    this.now = null;
  }

  show(now) {
    if (this.now && now.sent !== this.now.sent) note(now.sent);
    this.now = now;
    const first = now.alerts[0];
    setText(this.name, now.name);
    this.name.title = now.name;
    setText(this.unit, now.unit);
    this.node.className = `tile ${now.state} ${first ? first.priority : "calm"}`;
    this.badge.className = first ? `badge ${first.priority}` : "badge none";
    setText(this.badge, first ? `${SHAPE[first.priority]} ${first.priority}` : "");
    this.showRows(now.rows);
    const texts = now.alerts.map((alert) => `${SHAPE[alert.priority]} ${alert.text}`);
    if (now.more) texts.push(`+ ${now.more} more`);
    if (this.alerts.dataset.of !== texts.join("\n")) {
      this.alerts.dataset.of = texts.join("\n");
      this.alerts.replaceChildren(...texts.map((text) => Object.assign(el("p", "", text), { title: text })));
    }
  }

  showRows(rows) {
    const names = rows.map((row) => row.signal).join("\n");
    if (this.names !== names) {
      this.names = names;
      this.rows = new Map(rows.map((row) => [row.signal, new Row()]));
      this.rowsNode.replaceChildren(...[...this.rows.values()].flatMap((row) => row.nodes));
      if (this.paths) this.draw(this.paths);
    }
    for (const row of rows) this.rows.get(row.signal).show(row);
  }

  draw(paths) {
    this.paths = paths;
    for (const [signal, path] of Object.entries(paths)) this.rows.get(signal)?.draw(path);
  }

  age(newest) {
    if (!this.now) return;
    const age = this.now.at === null || newest === null ? null : duration(newest - this.now.at);
    const state = STATE[this.now.state] ?? "";
    setText(this.aged, [state, age].filter(Boolean).join(" · "));
    this.aged.title = this.now.at === null ? "" : `newest values of ${utc(this.now.at)}`;
    for (const row of this.rows.values()) row.age(newest);
  }

  matches(words, filter) {
    if (!this.now) return false;
    if (filter === "alerts" && !this.now.alerts.length) return false;
    if (filter === "stale" && !["stale", "unseen"].includes(this.now.state)) return false;
    return !words || `${this.now.name} ${this.now.unit}`.toLowerCase().includes(words);
  }
}

class Row {
  constructor() {
    this.title = el("span", "signal");
    this.value = el("span", "value");
    this.number = el("b");
    this.unit = el("i");
    this.old = el("em");
    this.value.append(this.number, this.unit, this.old);
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("viewBox", "0 0 150 32");
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("aria-hidden", "true");
    this.paths = Object.fromEntries(["band", "line", "median"].map((name) => [name, this.path(name)]));
    this.then = el("span", "then");
    this.about = el("span", "heard"); // what colour and place tell those who see
    this.median = el("b");
    this.band = el("i");
    this.then.append(this.about, this.median, this.band);
    this.nodes = [this.title, this.value, this.svg, this.then];
  }

  path(name) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    path.setAttribute("vector-effect", "non-scaling-stroke");
    this.svg.append(path);
    return path;
  }

  show(row) {
    this.at = row.at;
    setText(this.title, row.alert ? `${SHAPE[row.alert]} ${row.title}` : row.title);
    this.title.className = `signal ${row.alert ?? ""}`;
    this.title.title = row.long;
    setText(this.number, row.value ?? "–");
    setText(this.unit, row.unit);
    const [arrow, word] = TREND[row.trend] ?? ["", ""];
    setText(this.about, row.then === null ? "" : `, forecast in ${row.in_min} min${word && `, ${word}`}: `);
    setText(this.median, row.then === null ? "" : `${arrow} ${row.then}`);
    setText(this.band, row.band ?? "");
    this.then.title =
      row.then === null ? "" : `${row.long} in ${row.in_min} min: ${row.then}, 90 % band ${row.band}, ${word}`;
  }

  draw(path) {
    for (const [name, data] of Object.entries(path)) this.paths[name]?.setAttribute("d", data);
  }

  age(newest) {
    const age = this.at === null || newest === null ? 0 : newest - this.at;
    setText(this.old, age > OLD_AFTER_MS ? duration(age) : "");
    this.value.classList.toggle("old", age > OLD_AFTER_MS);
  }
}

function note(sent) {
  requestAnimationFrame(() => {
    lags.push(Date.now() - sent);
    if (lags.length > 2000) lags.shift();
  });
}
