// The checklist: a tile for each plane, filled once it was held or captured.

import { capitalised, percent } from "./states.js";

// On a tile there is no room for "trans-".
const SHORT = {
  "trans-thalamic": "Thalamic",
  "trans-cerebellum": "Cerebellar",
  "trans-ventricular": "Ventricular",
};

export class Checklist {
  // onOpen(item, captured) when a kept picture is asked for.
  constructor(list, onOpen) {
    this.list = list;
    this.onOpen = onOpen;
    this.tiles = new Map();
  }

  update(items) {
    for (const status of items) {
      if (!this.tiles.has(status.item)) this.add(status.item);
      this.show(this.tiles.get(status.item), status);
    }
  }

  add(item) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.item = item;
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = SHORT[item] ?? capitalised(item);
    button.title = capitalised(item);
    const entry = document.createElement("li");
    entry.append(button);
    this.list.append(entry);
    const tile = { button, name, shown: undefined };
    button.addEventListener("click", () => {
      if (tile.captured) this.onOpen(item, tile.captured);
    });
    this.tiles.set(item, tile);
  }

  show(tile, { item, held, captured }) {
    tile.captured = captured;
    tile.button.style.setProperty("--held", held);
    tile.button.classList.toggle("holding", !captured && held > 0);
    const version = captured ? captured.number : 0;
    if (tile.shown === version) return;
    tile.shown = version;
    tile.button.className = captured ? "tile done" : "tile missing";
    tile.button.setAttribute("aria-disabled", String(!captured));
    tile.button.setAttribute("aria-label", describe(item, captured));
    tile.button.replaceChildren(...(captured ? kept(item, captured) : [mark(null)]), tile.name);
  }
}

function describe(item, captured) {
  if (!captured) return `${capitalised(item)}: not yet`;
  const how = captured.by_hand ? "captured by hand" : "held";
  return `${capitalised(item)}: ${how}, ${percent(captured.score)}. Show the picture.`;
}

function kept(item, captured) {
  const picture = document.createElement("img");
  picture.src = `captured/${item}.jpg?${captured.number}`;
  picture.alt = "";
  const score = document.createElement("span");
  score.className = "score";
  score.textContent = percent(captured.score);
  return [picture, mark(captured.by_hand ? "hand" : "done"), score];
}

function mark(icon) {
  const span = document.createElement("span");
  span.className = "mark";
  if (icon) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
    use.setAttribute("href", `#icon-${icon}`);
    svg.append(use);
    span.append(svg);
  }
  return span;
}
