// The bed page: a chart for each signal, alerts with their lives, raw messages.

import { Chart, loadLibrary } from "./chart.js";
import { choices, duration, el, setText, setTime, SHAPE, STATE, utc } from "./words.js";

const SPANS = { 1: "1 h", 2: "2 h", 4: "4 h" };

export class Bed {
  constructor(root) {
    this.root = root;
    this.parts = {};
    this.charts = new Map();
    this.dirty = new Set();
    this.hours = 2;
    this.name = el("h1");
    this.about = el("p", "about");
    this.back = Object.assign(el("a", "back", "← Ward"), { href: "#" });
    const top = el("div", "bed-top");
    top.append(this.back, this.name, this.about, this.spans());
    this.chartsNode = el("section", "charts");
    this.alerts = el("section", "lives");
    this.messages = el("section", "messages");
    const side = el("aside");
    side.append(this.alerts, this.messages);
    const body = el("div", "bed");
    body.append(this.chartsNode, side);
    root.replaceChildren(top, body);
  }

  spans() {
    const node = el("span", "bar");
    const buttons = choices(SPANS, String(this.hours), (hours) => {
      this.hours = Number(hours);
      this.repaint();
    });
    node.append(...buttons);
    return node;
  }

  close() {
    this.closed = true;
    this.empty();
    this.root.replaceChildren();
  }

  empty() {
    for (const chart of this.charts.values()) if (chart.plot.data) window.Plotly.purge(chart.plot);
    this.charts.clear();
    this.dirty.clear();
    for (const node of [this.chartsNode, this.alerts, this.messages]) node.replaceChildren();
  }

  update(parts, set) {
    this.parts = parts;
    if (parts.bed === null) {
      setText(this.name, "Unknown bed");
      setText(this.about, "The stay may have ended, or the page's server was restarted. Escape leads back to the ward.");
      this.empty();
      return;
    }
    if (!parts.bed || !parts.order) return;
    this.showAbout(parts.bed, parts.head);
    if (set.alerts) this.showAlerts(set.alerts);
    if (set.messages) this.showMessages(set.messages);
    for (const signal of parts.order) this.chart(signal).show(parts, parts.head?.newest ?? null);
    for (const name of Object.keys(set)) {
      const [kind, signal] = split(name);
      if (["history", "past", "fan"].includes(kind)) this.dirty.add(signal);
    }
    if (set.order) this.chartsNode.replaceChildren(...set.order.map((signal) => this.chart(signal).node));
    this.paint();
  }

  chart(signal) {
    if (!this.charts.has(signal)) this.charts.set(signal, new Chart(signal));
    return this.charts.get(signal);
  }

  repaint() {
    for (const signal of this.charts.keys()) this.dirty.add(signal);
    this.paint();
  }

  // One chart a frame, so that typing and scrolling stay smooth.
  async paint() {
    if (this.painting) return;
    this.painting = true;
    try {
      const plotly = await loadLibrary();
      while (this.dirty.size && !this.closed) {
        const [signal] = this.dirty;
        this.dirty.delete(signal);
        if (!this.parts.order?.includes(signal)) continue;
        await this.chart(signal).draw(plotly, this.parts, this.hours);
        await new Promise(requestAnimationFrame);
      }
    } finally {
      this.painting = false;
    }
  }

  showAbout(bed, head) {
    setText(this.name, bed.name);
    const age = bed.at === null || !head?.newest ? "" : `newest ${duration(head.newest - bed.at)} old`;
    const alerts = bed.open === 1 ? "1 open alert" : `${bed.open || "no"} open alerts`;
    setText(this.about, [bed.unit, STATE[bed.state], age, alerts, bed.model].filter(Boolean).join(" · "));
    this.root.classList.toggle("stale", bed.state === "stale");
  }

  showAlerts(alerts) {
    const open = new Set([...this.alerts.querySelectorAll("details[open]")].map((node) => node.dataset.id));
    const lives = alerts.map((alert) => {
      const node = el("details", `life ${alert.priority} ${alert.state}`);
      node.dataset.id = alert.id;
      node.open = open.has(alert.id);
      const line = el("summary");
      const when = el("time");
      setTime(when, alert.since, true);
      const is = alert.state === "cleared" ? `cleared${alert.reason ? `: ${alert.reason}` : ""}` : "open";
      const about = el("span", "fact", `${is} · ${alert.kind} · since `);
      about.append(when);
      line.append(
        el("span", `badge ${alert.priority}`, `${SHAPE[alert.priority]} ${alert.priority}`),
        el("b", "", alert.text),
        about,
      );
      const lead = alert.lead_s === null ? "" : ` · ${duration(alert.lead_s * 1000)} ahead of the limit`;
      node.append(line, el("p", "fact", (alert.evidence || "no evidence given") + lead), this.steps(alert.steps));
      return node;
    });
    const title = el("h2", "", "Alerts, open ones first");
    renew(this.alerts, title, ...(lives.length ? lives : [el("p", "fact", "None.")]));
  }

  steps(steps) {
    const list = el("ol");
    for (const step of steps) {
      const item = el("li");
      const when = el("time");
      setTime(when, step.at);
      item.append(when, el("span", "", ` ${step.state}, ${step.priority}: ${step.text}`));
      list.append(item);
    }
    return list;
  }

  showMessages(messages) {
    const isOpen = this.messages.querySelector("details")?.open ?? false;
    const details = Object.assign(el("details"), { open: isOpen });
    details.dataset.id = "messages";
    details.append(el("summary", "", "Last messages, as they came"));
    for (const message of messages) {
      const from = el("p", "fact", `${message.from} · ${utc(message.at)}`);
      details.append(from, el("pre", "", message.text));
    }
    renew(this.messages, details);
  }
}

// Replaces what a section holds; the focus stays on what it was on, since some come anew every second.
function renew(section, ...nodes) {
  const { activeElement } = document;
  const id = section.contains(activeElement) ? activeElement.parentNode.dataset.id : null;
  section.replaceChildren(...nodes);
  const again = [...section.querySelectorAll("details")].find((node) => id && node.dataset.id === id);
  again?.querySelector("summary").focus({ preventScroll: true });
}

function split(name) {
  const at = name.indexOf(":");
  return at < 0 ? [name, ""] : [name.slice(0, at), name.slice(at + 1)];
}
