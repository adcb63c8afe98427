// The delay from capture to answer, over the last answers.

const KEPT = 120;
const SPAN_MS = 500;

export class Sparkline {
  constructor(canvas, words) {
    this.canvas = canvas;
    this.words = words;
    this.values = [];
    this.written = 0;
  }

  add(milliseconds) {
    this.values.push(milliseconds);
    if (this.values.length > KEPT) this.values.shift();
    this.draw();
    // Digits that change with every picture cannot be read.
    const now = performance.now();
    if (now - this.written < SPAN_MS) return;
    this.written = now;
    const sorted = [...this.values].sort((a, b) => a - b);
    this.words.textContent = `${Math.round(sorted[sorted.length >> 1])} ms`;
  }

  draw() {
    const { canvas, values } = this;
    const { width, height } = canvas;
    const context = canvas.getContext("2d");
    const most = Math.max(...values, 1);
    const x = (i) => 2 + ((KEPT - values.length + i) / (KEPT - 1)) * (width - 4);
    const y = (value) => height - 3 - (value / most) * (height - 6);
    context.clearRect(0, 0, width, height);
    context.beginPath();
    values.forEach((value, i) => context.lineTo(x(i), y(value)));
    context.strokeStyle = "#a9b8c6";
    context.lineWidth = 2.5;
    context.lineJoin = "round";
    context.stroke();
  }
}
