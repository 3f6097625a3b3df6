// A signal's chart on the bed page: values, what was forecast for them, the newest forecast, limits, alerts.
// Plotly gets numbers only: it reads markup in texts, and a sender's texts are set as text nodes instead.

import { duration, el, OLD_AFTER_MS, setText, SHAPE, TREND, utc } from "./words.js";

const HOUR_MS = 3_600_000;
const SYMBOL = { high: "diamond", medium: "triangle-up", low: "circle", info: "circle-open" };
const GAP_MS = 11 * 60_000; // as in the ward's sparklines: beyond two of the slowest usual readings
let library = null;

// Loaded with the first bed, since the ward does without it.
export function loadLibrary() {
  library ??= new Promise((resolve, reject) => {
    const script = el("script");
    script.src = "/lib/plotly.js";
    script.onload = () => resolve(window.Plotly);
    script.onerror = (event) => {
      library = null; // the next change of a chart tries again
      reject(event);
    };
    document.head.append(script);
  });
  return library;
}

// Times as Plotly writes them: by the viewer's clock, which is not set back or forward within a chart. Else two hours of
// a night in October would lie upon each other. The tooltip says UTC as well.
function wallClock(end) {
  const ahead = new Date(end).getTimezoneOffset() * -60_000;
  return (ms) => new Date(ms + ahead).toISOString().slice(0, -1);
}

const clock = (times) => times.map((ms) => utc(ms).slice(0, 16) + " UTC");

export class Chart {
  constructor(signal) {
    this.signal = signal;
    this.node = el("article", "chart");
    this.title = el("h2");
    this.value = el("b", "big");
    this.unit = el("i");
    this.then = el("span", "then");
    this.quality = el("p", "fact");
    this.plot = el("div", "plot");
    const top = el("div", "chart-top");
    top.append(this.title, this.value, this.unit, this.then);
    this.node.append(top, this.plot, this.quality);
  }

  show(parts, newest) {
    const now = parts[`now:${this.signal}`];
    const quality = parts[`quality:${this.signal}`];
    if (!now) return;
    setText(this.title, now.long);
    setText(this.value, now.value ?? "–");
    const age = now.at === null || newest === null ? 0 : newest - now.at;
    setText(this.unit, `${now.unit}${age > OLD_AFTER_MS ? ` · ${duration(age)} old` : ""}`);
    const [arrow, word] = TREND[now.trend] ?? ["", ""];
    setText(this.then, now.then === null ? "" : `${arrow} ${now.then} (${now.band}) in ${now.in_min} min`);
    this.then.title = word && `${word}; in brackets the 90 % band`;
    const isForecast = parts[`fan:${this.signal}`] || parts[`past:${this.signal}`]?.t.length;
    const none = isForecast ? "No forecast of this signal can be checked yet." : "Not forecast, only shown as observed.";
    setText(this.quality, quality ? sentence(quality) : none);
  }

  async draw(plotly, parts, hours) {
    const history = parts[`history:${this.signal}`];
    const past = parts[`past:${this.signal}`];
    const fan = parts[`fan:${this.signal}`];
    if (!history) return;
    const ink = inks();
    const end = Math.max(history.t.at(-1) ?? 0, fan?.issued ?? 0);
    const traces = [...pastTraces(ink, past, end), ...historyTraces(ink, history), ...fanTraces(ink, fan)];
    const shown = [end - hours * HOUR_MS, end + HOUR_MS];
    const at = wallClock(end);
    const layout = layoutOf(ink, history, shown.map(at), at(end));
    layout.yaxis.range = rangeOf(traces, shown, history.limits);
    const drawn = [...traces, ...marks(ink, history, end)].map((trace) => ({ ...trace, x: trace.x.map(at) }));
    await plotly.react(this.plot, drawn, layout, { displayModeBar: false, responsive: true });
  }
}

function sentence(quality) {
  return (
    `${quality.horizon_min} min ahead, over ${quality.count} minutes of this stay: ${quality.covered_90} of values in ` +
    `the 90 % band, ${quality.covered_50} in the 50 % band; mean error ${quality.error} ` +
    `("stays as it is": ${quality.persistence}).`
  );
}

function inks() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(
    ["ink", "dim", "rule", "line", "fan90", "fan50", "median", "past", "limit", "high", "medium", "low", "info"].map(
      (name) => [name, style.getPropertyValue(`--${name}`).trim()],
    ),
  );
}

function layoutOf(ink, history, range, end) {
  const values = { showgrid: true, gridcolor: ink.rule, zeroline: false, tickfont: { color: ink.dim, size: 13 } };
  return {
    height: 230,
    margin: { l: 44, r: 12, t: 6, b: 26 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    showlegend: false,
    hovermode: "x",
    dragmode: false,
    font: { color: ink.ink },
    xaxis: { ...values, type: "date", range, tickformat: "%H:%M" },
    yaxis: { ...values, fixedrange: true },
    shapes: [
      ...history.limits.map(({ at, priority }) =>
        rule({ y0: at, y1: at, x0: 0, x1: 1, xref: "paper" }, limitInk(ink, priority), "8px,5px"),
      ),
      rule({ x0: end, x1: end, y0: 0, y1: 1, yref: "paper" }, ink.dim, "dot"),
    ],
    annotations: history.limits.map(({ at, priority }) => ({
      ...{ x: 1, xref: "paper", xanchor: "right", y: at, yanchor: "bottom", showarrow: false, borderpad: 0 },
      text: `${SHAPE[priority]} limit ${at}`,
      font: { color: limitInk(ink, priority), size: 12 },
    })),
  };
}

const limitInk = (ink, priority) => (priority === "high" ? ink.high : ink.limit);

// All that is in sight, and a limit that is not far from it; one far away would only flatten the curves.
function rangeOf(traces, [from, to], limits) {
  const values = traces.flatMap(({ x, y }) => y.filter((value, i) => value !== null && x[i] >= from && x[i] <= to));
  if (!values.length) return undefined;
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const near = Math.max(most - least, 4) * 0.6;
  const inSight = limits.filter(({ at, priority }) => priority !== "high" && at > least - near && at < most + near);
  const [low, high] = [Math.min(least, ...inSight.map(({ at }) => at)), Math.max(most, ...inSight.map(({ at }) => at))];
  const margin = Math.max(high - low, 1) * 0.06;
  return [low - margin, high + margin];
}

const rule = (place, color, dash) => ({ type: "line", line: { color, width: 1.6, dash }, layer: "above", ...place });

// The parts between long gaps, as [from, to): a line or a band over one would invent what was not there.
function unbroken(times) {
  const starts = times.flatMap((at, i) => (i === 0 || at - times[i - 1] > GAP_MS ? [i] : []));
  return starts.map((from, n) => [from, starts[n + 1] ?? times.length]);
}

// A closed ribbon for each of the parts.
function band(parts, times, low, high, fillcolor) {
  const [x, y] = [[], []];
  for (const [from, to] of parts) {
    const there = times.slice(from, to);
    x.push(...there, ...[...there].reverse(), there[0]);
    y.push(...high.slice(from, to), ...low.slice(from, to).reverse(), null);
  }
  return { x, y, mode: "lines", line: { width: 0 }, fill: "toself", fillcolor, hoverinfo: "skip", type: "scatter" };
}

function curve(times, values, name, line) {
  const hovertemplate = `%{y:.1f} ${name}<br>%{customdata}<extra></extra>`;
  return { x: times, y: values, customdata: clock(times), mode: "lines", line, hovertemplate, type: "scatter" };
}

// What was forecast for the future 15 min ago and less is older than the fan: it ends where that begins.
function pastTraces(ink, past, end) {
  const t = past?.t.filter((at) => at <= end) ?? [];
  if (!t.length) return [];
  const line = { color: ink.dim, width: 1.3, dash: "dot" };
  const curved = curve(...withGaps(t, past.median), "forecast 15 min before", line);
  return [band(unbroken(t), t, past.low, past.high, ink.past), curved];
}

function withGaps(t, v) {
  const parts = unbroken(t);
  return [
    parts.flatMap(([from, to]) => [...t.slice(from, to), t[to - 1] + 1]),
    parts.flatMap(([from, to]) => [...v.slice(from, to), null]),
  ];
}

function historyTraces(ink, history) {
  const [times, values] = withGaps(history.t, history.v);
  const points = { color: ink.line, size: 3.5 }; // so that a value between two gaps is seen
  return [{ ...curve(times, values, "observed", { color: ink.line, width: 2.2 }), mode: "lines+markers", marker: points }];
}

function fanTraces(ink, fan) {
  if (!fan) return [];
  const [low90, low50, median, high50, high90] = fan.levels;
  const whole = [[0, fan.t.length]];
  return [
    band(whole, fan.t, low90, high90, ink.fan90),
    band(whole, fan.t, low50, high50, ink.fan50),
    curve(fan.t, median, "forecast", { color: ink.median, width: 2.4 }),
  ];
}

// Anomalies where they were; alerts on the value at which each began.
function marks(ink, history, end) {
  const traces = [];
  if (history.anomalies.length) {
    const times = history.anomalies.map(([at]) => at);
    traces.push({
      ...curve(times, history.anomalies.map(([, value]) => value), "unexpected", {}),
      mode: "markers",
      marker: { symbol: "x-thin-open", size: 9, color: ink.ink, line: { width: 1.6 } },
    });
  }
  for (const alert of history.alerts) {
    const value = nearest(history, alert.from);
    if (value === null) continue;
    traces.push({
      ...curve([alert.from], [value], `${SHAPE[alert.priority]} ${alert.priority} alert began`, {}),
      mode: "markers",
      marker: { symbol: SYMBOL[alert.priority], size: 13, color: ink[alert.priority], line: { width: 1.5, color: ink.ink } },
    });
    const until = alert.to ?? end;
    const open = history.t.map((at, i) => (at >= alert.from && at <= until ? history.v[i] : null));
    traces.push({
      ...curve(...withGaps(history.t, open), "while the alert was open", { color: ink[alert.priority], width: 4 }),
      opacity: 0.55,
      hoverinfo: "skip",
      hovertemplate: null,
    });
  }
  return traces;
}

function nearest(history, at) {
  if (!history.t.length) return null;
  let best = 0;
  for (let i = 1; i < history.t.length; i++)
    if (Math.abs(history.t[i] - at) < Math.abs(history.t[best] - at)) best = i;
  return history.v[best];
}
