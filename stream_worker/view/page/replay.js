// Play, pause and speed of recordings, where the server offers them: in the demo.

import { setText } from "./words.js";

const KEYS = { "+": "faster", "=": "faster", "-": "slower" };

export class Replay {
  constructor(root) {
    this.root = root;
    this.state = null;
    this.toggle = root.querySelector("[data-turn=pause]");
    for (const button of root.querySelectorAll("button"))
      button.addEventListener("click", () => this.turn(button.dataset.turn));
  }

  show(state) {
    this.state = state;
    this.root.hidden = !state;
    if (!state) return;
    const is = state.ended ? "ended" : state.playing ? "" : "paused";
    this.toggle.dataset.turn = state.playing ? "pause" : "play";
    setText(this.toggle, state.playing ? "❚❚ Pause" : "▶ Play");
    setText(this.root.querySelector("#speed"), state.speed);
    setText(this.root.querySelector("#position"), [`recording ${state.at}`, is].filter(Boolean).join(" · "));
    for (const button of this.root.querySelectorAll("button")) button.disabled = state.ended;
  }

  // Whether the key was meant for it.
  key(event) {
    if (!this.state) return false;
    const turn = event.key.toLowerCase() === "p" ? this.toggle.dataset.turn : KEYS[event.key];
    if (turn) this.turn(turn);
    return Boolean(turn);
  }

  turn(how) {
    // What it did is told with the next change; a server that is gone is said elsewhere.
    fetch(`/replay/${how}`, { method: "POST", headers: { "X-Vitalcast-Page": "1" } }).catch(() => {});
  }
}
