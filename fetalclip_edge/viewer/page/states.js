// What a message is worth, in words that a tired person reads at once.

const TOO_OLD_MS = 2000;

// Veiled: the picture on the screen is not one of now, so it is not shown as such.
export const STATES = {
  connecting: { words: "Connecting", hint: "", veiled: true },
  live: { words: "Live", hint: "", answered: true },
  frozen: { words: "Probe frozen", hint: "The picture stands still", answered: true },
  stale: { words: "No new picture", hint: "The source is slow or stuck", veiled: true },
  no_signal: { words: "No signal", hint: "Check the probe and its cable", veiled: true },
  out_of_domain: { words: "No answer", hint: "Unlike the pictures the model knows" },
  lost: { words: "No connection", hint: "Lost the device; trying again", veiled: true },
  ended: { words: "Ended", hint: "The recording is over", veiled: true },
  held: { words: "Screen frozen", hint: "", answered: true },
};

// The ones that the help explains, in the order in which they matter.
export const SIGNS = ["live", "frozen", "out_of_domain", "stale", "no_signal", "lost", "held"];

export function stateOf(message) {
  if (message.ended) return "ended";
  if (message.age_ms !== null && message.age_ms > TOO_OLD_MS) return "stale";
  return message.state in STATES ? message.state : "stale";
}

const PLANES = { other: "No standard plane" };

export function planeName(label) {
  return PLANES[label] ?? capitalised(label);
}

export function capitalised(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export function percent(share) {
  // Never 100 %: no answer is certain.
  return `${Math.min(99, Math.round(100 * share))} %`;
}

export function weeks(days) {
  return `${Math.floor(days / 7)} w ${days % 7} d`;
}
