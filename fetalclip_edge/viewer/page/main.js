// The screen: what the device says is shown, what the person wants is sent.

import { Checklist } from "./checklist.js";
import { Connection } from "./connection.js";
import { decode, draw } from "./picture.js";
import { Scores } from "./scores.js";
import { Sparkline } from "./sparkline.js";
import { SIGNS, STATES, capitalised, percent, planeName, stateOf, weeks } from "./states.js";

const element = (id) => document.getElementById(id);
const NOTICE_MS = 4000;

let shown = null; // the message whose picture is on the screen
let last = null; // the newest number, so that a message sent again counts once
let held = false;
let state = "connecting";

const scores = new Scores(element("scores"));
const sparkline = new Sparkline(element("sparkline"), element("delay"));
const checklist = new Checklist(element("checklist"), openCaptured);
const connection = new Connection({ onMessage: show, onNotice: notify, onLost: lose });

async function show(message, jpeg, isCurrent) {
  const bitmap = jpeg && !held ? await decode(jpeg) : null;
  // Lost while the picture was being decoded: what was said then holds.
  if (!isCurrent()) return;
  checklist.update(message.checklist);
  const delay = message.timing_ms.capture_to_result;
  if (message.number !== last && delay !== undefined) sparkline.add(delay);
  last = message.number;
  element("count").textContent = message.dropped ? `${message.dropped} pictures skipped` : "";
  if (held) {
    bitmap?.close();
    const behind = STATES[stateOf(message)].words;
    setState("held", `Behind it: ${behind.toLowerCase()}`, "");
    return;
  }
  if (bitmap) draw(bitmap);
  shown = message;
  const now = stateOf(message);
  const hint = message.help ? "Waiting for a better picture" : STATES[now].hint;
  setState(now, hint, message.reason ?? "");
  setAnswer(STATES[now].answered ? message : null);
  setLook(STATES[now].veiled ? null : message);
}

function lose() {
  setState("lost", STATES.lost.hint, "The picture behind this is not live.");
  // A held picture stays on the screen, but the device that comes back need not be the one that
  // knows it by its number.
  if (held) {
    shown = null;
  } else {
    setAnswer(null);
    setLook(null);
  }
}

function setState(name, hint, reason) {
  const { words, veiled } = STATES[name];
  if (state !== name) {
    state = name;
    document.body.dataset.state = name;
    for (const id of ["state-icon", "veil-icon"]) {
      element(id).setAttribute("href", `#icon-${name}`);
    }
    element("veil-words").textContent = words;
    // Read aloud, so written only when it changes.
    element("state-words").textContent = words;
  }
  document.body.classList.toggle("veiled", Boolean(veiled));
  write("state-hint", hint);
  write("veil-reason", veiled ? reason : "");
}

function setAnswer(message) {
  const plane = message?.plane;
  const named = plane !== undefined && plane.label !== "other";
  write("plane", plane ? planeName(plane.label) : "–");
  element("plane").classList.toggle("none", !named);
  write("confidence", plane ? percent(plane.confidence) : "–");
  element("confidence-bar").style.setProperty("--share", plane ? plane.confidence : 0);
  const brain = message?.brain_plane;
  const sub = named && brain?.label ? `${capitalised(brain.label)} ${percent(brain.confidence)}` : "";
  write("sub-plane", sub);
  element("tag").hidden = !named;
  if (named) {
    write("tag-plane", planeName(plane.label));
    write("tag-confidence", percent(plane.confidence));
  }
  scores.update(plane?.scores ?? {});
  setFacts(message);
}

function setFacts(message) {
  const age = message?.gestational_age;
  const head = message?.head_circumference_mm;
  element("age-row").hidden = !age;
  element("head-row").hidden = !head;
  element("facts").hidden = !age && !head;
  if (age) write("age", `${weeks(age.days)} (${weeks(age.low_days)} – ${weeks(age.high_days)})`);
  if (head) write("head", `${Math.round(head)} mm`);
}

// How good the picture is, in words and by a sign.
function setLook(message) {
  const quality = message?.quality;
  element("look").classList.toggle("wanted", Boolean(message?.help));
  element("look").classList.toggle("unknown", !quality);
  element("look-icon").setAttribute("href", `#icon-${quality?.reason ? "out_of_domain" : "done"}`);
  write("look-words", quality ? capitalised(quality.reason ?? "good") : "–");
}

function write(id, text) {
  const target = element(id);
  if (target.textContent !== text) target.textContent = text;
}

function freeze() {
  if (!held && (shown === null || STATES[state].veiled)) {
    notify({ notice: "There is no picture to freeze.", ok: false });
    return;
  }
  held = !held;
  connection.send(held ? { do: "hold", number: shown.number } : { do: "release" });
  element("freeze").setAttribute("aria-pressed", String(held));
  write("freeze-words", held ? "Go on" : "Freeze");
  element("freeze-icon").setAttribute("href", `#icon-${held ? "go" : "held"}`);
  if (held) setState("held", "", "");
}

function capture() {
  if (shown === null || (STATES[state].veiled && !held)) {
    notify({ notice: "There is no picture to capture.", ok: false });
  } else if (!connection.send({ do: "capture", number: shown.number })) {
    notify({ notice: "Not captured: the device does not answer.", ok: false });
  }
}

let noticeTimer;
function notify({ notice, ok }) {
  const box = element("notice");
  box.hidden = false;
  box.textContent = notice;
  box.classList.toggle("bad", !ok);
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => (box.hidden = true), NOTICE_MS);
}

function openCaptured(item, captured) {
  const source = `captured/${item}.png?${captured.number}`;
  write("captured-title", capitalised(item));
  element("captured-picture").src = source;
  element("captured-picture").alt = `The picture kept for ${item}`;
  const how = captured.by_hand ? "Captured by hand; confidence" : "Held; mean confidence";
  write("captured-words", `${how} ${percent(captured.score)}`);
  element("captured-download").href = source;
  element("captured-download").download = `${item}.png`;
  element("captured-dialog").showModal();
}

function explainSigns() {
  for (const name of SIGNS) {
    const row = document.createElement("div");
    row.innerHTML = `<svg aria-hidden="true"><use href="#icon-${name}"></use></svg>`;
    const words = document.createElement("dt");
    words.textContent = STATES[name].words;
    row.append(words);
    element("signs").append(row);
  }
}

const newExam = element("new-exam-dialog");
newExam.addEventListener("close", () => {
  if (newExam.returnValue === "yes") connection.send({ do: "new_exam" });
});

const askNewExam = () => {
  newExam.returnValue = "";
  newExam.showModal();
};
const explainKeys = () => element("keys-dialog").showModal();
const downloadReport = () => element("report").click();
const KEYS = { f: freeze, c: capture, n: askNewExam, r: downloadReport, "?": explainKeys };

element("freeze").addEventListener("click", freeze);
element("capture").addEventListener("click", capture);
element("new-exam").addEventListener("click", askNewExam);
element("keys").addEventListener("click", explainKeys);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  if (document.querySelector("dialog[open]")) return;
  const action = KEYS[event.key.toLowerCase()];
  if (action) {
    event.preventDefault();
    action();
  }
});
explainSigns();
