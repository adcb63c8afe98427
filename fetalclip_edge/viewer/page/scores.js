// How likely each plane is, where the screen is tall enough for it.

import { capitalised } from "./states.js";

export class Scores {
  constructor(list) {
    this.list = list;
    this.bars = new Map();
  }

  // scores: plane -> 0 to 1; none where there is no answer.
  update(scores) {
    for (const label of Object.keys(scores)) {
      if (!this.bars.has(label)) this.add(label);
    }
    for (const [label, bar] of this.bars) bar.style.setProperty("--share", scores[label] ?? 0);
  }

  add(label) {
    const row = document.createElement("li");
    const bar = document.createElement("i");
    row.append(capitalised(label), bar);
    this.list.append(row);
    this.bars.set(label, bar);
  }
}
