// The WebSocket to the device: messages in, wishes out, and the truth about whether it still lives.

const SILENCE_MS = 3000; // the device says something every second
const FIRST_WAIT_MS = 300;
const LONGEST_WAIT_MS = 3000;

export class Connection {
  // onMessage(header, jpeg, isCurrent) is awaited before the device is told that the message was
  // shown, so a slow page is sent less. onNotice({notice, ok}); onLost() when the device does not
  // answer: a message under way is then no longer current.
  constructor({ onMessage, onNotice, onLost }) {
    Object.assign(this, { onMessage, onNotice, onLost });
    this.wait = FIRST_WAIT_MS;
    this.queue = Promise.resolve();
    this.open();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/live`);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.listen();
    socket.onmessage = (event) => this.receive(socket, event.data);
    socket.onclose = () => this.lose(socket);
  }

  // Also a device that hangs, or a network that drops everything, closes nothing.
  listen() {
    clearTimeout(this.watch);
    const socket = this.socket;
    this.watch = setTimeout(() => this.lose(socket), SILENCE_MS);
  }

  receive(socket, data) {
    if (socket !== this.socket) return;
    this.listen();
    this.wait = FIRST_WAIT_MS;
    if (typeof data === "string") {
      this.onNotice(JSON.parse(data));
      return;
    }
    this.queue = this.queue
      .then(() => this.show(data, () => socket === this.socket))
      .catch((error) => console.error(error))
      .then(() => this.send({ do: "shown" }, socket));
  }

  show(data, isCurrent) {
    const length = new DataView(data).getUint32(0);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    const jpeg = data.byteLength > 4 + length ? new Uint8Array(data, 4 + length) : null;
    return this.onMessage(header, jpeg, isCurrent);
  }

  lose(socket) {
    if (socket !== this.socket) return;
    clearTimeout(this.watch);
    this.socket = null;
    socket.close();
    this.onLost();
    setTimeout(() => this.open(), this.wait);
    this.wait = Math.min(2 * this.wait, LONGEST_WAIT_MS);
  }

  send(wish, socket = this.socket) {
    if (socket === null || socket !== this.socket || socket.readyState !== WebSocket.OPEN) {
      return false;
    }
    socket.send(JSON.stringify(wish));
    return true;
  }
}
