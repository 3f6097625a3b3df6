// Words, shapes and times. Texts reach the page as text nodes only, so that what a sender wrote can do nothing.

export const PRIORITIES = ["high", "medium", "low", "info"];
export const SHAPE = { high: "◆", medium: "▲", low: "●", info: "○" };
export const TREND = {
  up: ["↗", "rising"],
  down: ["↘", "falling"],
  steady: ["→", "steady"],
};
export const STATE = {
  stale: "NO DATA",
  unseen: "no reading seen yet",
  warming_up: "warming up",
  no_forecast: "no forecast yet",
};

export const OLD_AFTER_MS = 90_000; // a value older than this shows its age

export function el(name, className = "", text = "") {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

// Buttons of which one is pressed, by name; `choose` is told of another one.
export function choices(texts, chosen, choose) {
  const buttons = Object.entries(texts).map(([name, text]) => {
    const button = el("button", "", text);
    button.type = "button";
    button.setAttribute("aria-pressed", String(name === chosen));
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      choose(name);
    });
    return button;
  });
  return buttons;
}

// Writing an equal text again would still cost the browser a layout.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const hm = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dhm = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

export const utc = (ms) => new Date(ms).toISOString().replace("T", " ").slice(0, 19) + " UTC";

export const local = (ms) => hm.format(ms);

// The viewer's own time zone; UTC in the tooltip.
export function setTime(node, ms, withDay = false) {
  setText(node, ms === null ? "" : (withDay ? dhm : hm).format(ms));
  node.title = ms === null ? "" : utc(ms);
}

export function duration(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 100) return `${s} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}
