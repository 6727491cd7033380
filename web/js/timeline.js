// Waveform, spectrogram, phones and seconds of a recording, one above the other; it scrolls, zooms and takes keys.
// A canvas as wide as what is in view stays in place while a track as long as the recording scrolls under it.

import { Sound, TILE_PX, TOP_HZ } from "./sound.js";

/** Rows of the canvas in CSS pixels: top and height. */
const ROWS = { wave: [0, 72], spectrum: [76, 192], phones: [272, 40], axis: [312, 24] };
export const HEIGHT = 336;
const READABLE_PX_PER_S = 250;
const MOST_PX_PER_S = 2000;
/** Browsers lay out nothing that is much wider. */
const MOST_PX = 8e6;
const ZOOM_STEP = 1.5;
const TICK_SPACING_PX = 72;
/** Sizes of the phones' letters; none is drawn when more than this share would touch at the smallest. */
const LABEL_PX = [18, 15, 12];
const MOST_CROWDED = 0.05;
const HZ_LINES = [2000, 4000, 6000];

export class Timeline {
  #pxPerS = READABLE_PX_PER_S;
  #drawing = false;

  /**
   * @param {HTMLElement} scroller holds a `.track` that holds a canvas
   * @param {{onPhone: (i: number) => void, onPoint: (i: number) => void, onSeek: (time: number) => void}} listeners
   *   a phone was picked; a phone is pointed at (-1: none); a time was picked
   */
  constructor(scroller, listeners) {
    this.scroller = scroller;
    this.track = scroller.querySelector(".track");
    this.canvas = scroller.querySelector("canvas");
    Object.assign(this, { phones: [], cursor: 0, marked: -1, width: 0 });
    this.listeners = listeners;
    scroller.addEventListener("scroll", () => this.draw());
    scroller.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.canvas.addEventListener("pointermove", (event) => listeners.onPoint(this.phoneAt(this.#timeOf(event))));
    this.canvas.addEventListener("pointerleave", () => listeners.onPoint(-1));
    this.canvas.addEventListener("click", (event) => this.#click(event));
    new ResizeObserver(() => this.#layOut()).observe(scroller);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** @param {Float32Array} samples */
  load(samples) {
    this.sound = new Sound(samples);
    Object.assign(this, { phones: [], cursor: 0, marked: -1 });
    this.#pxPerS = Math.max(READABLE_PX_PER_S, this.#fitting());
    this.scroller.scrollLeft = 0;
    this.#layOut();
  }

  /** @param {import("./transcript.js").Token[]} phones in order of time */
  show(phones) {
    this.phones = phones;
    this.draw();
  }

  /** Index of the phone at a time in s; -1 where there is none. */
  phoneAt(time) {
    const i = this.#firstAfter(time);
    return i < this.phones.length && this.phones[i].start <= time ? i : -1;
  }

  /** Index of the first phone that ends after a time in s. */
  #firstAfter(time) {
    let [low, high] = [0, this.phones.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.phones[middle].end <= time) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  mark(phone) {
    this.marked = phone;
    this.draw();
  }

  /** Put the cursor to a time in s, and with `follow` bring it into view. */
  moveTo(time, follow = false) {
    this.cursor = time;
    const x = time * this.#pxPerS - this.scroller.scrollLeft;
    if (follow && (x < 0 || x > this.width)) this.scroller.scrollLeft += x - this.width * (x < 0 ? 0.5 : 0.1);
    this.draw();
  }

  zoomIn = () => this.#zoom(ZOOM_STEP);
  zoomOut = () => this.#zoom(1 / ZOOM_STEP);
  zoomToAll = () => this.#zoom(0);

  #fitting() {
    return this.width / this.sound.duration;
  }

  /** Zoom about a point of the view in pixels. */
  #zoom(factor, about = this.width / 2) {
    if (!this.sound) return;
    const time = this.#timeAt(about);
    const least = this.#fitting();
    const most = Math.max(least, Math.min(MOST_PX_PER_S, MOST_PX / this.sound.duration));
    this.#pxPerS = Math.min(Math.max(this.#pxPerS * factor, least), most);
    this.#layOut();
    this.scroller.scrollLeft = time * this.#pxPerS - about;
    this.draw();
  }

  #wheel(event) {
    if (!event.ctrlKey) return;
    event.preventDefault();
    this.#zoom(ZOOM_STEP ** (-event.deltaY / 100), event.offsetX);
  }

  #click(event) {
    const phone = this.phoneAt(this.#timeOf(event));
    if (phone >= 0 && event.offsetY >= ROWS.phones[0]) this.listeners.onPhone(phone);
    else this.listeners.onSeek(Math.min(this.#timeOf(event), this.sound.duration));
  }

  #timeOf(event) {
    return this.#timeAt(event.offsetX);
  }

  #timeAt(x) {
    return (this.scroller.scrollLeft + x) / this.#pxPerS;
  }

  #layOut() {
    this.width = this.scroller.clientWidth;
    if (!this.sound || !this.width) return;
    this.#pxPerS = Math.max(this.#pxPerS, this.#fitting());
    this.track.style.width = `${Math.max(this.sound.duration * this.#pxPerS, this.width)}px`;
    const ratio = devicePixelRatio;
    Object.assign(this.canvas, { width: this.width * ratio, height: HEIGHT * ratio });
    this.canvas.style.width = `${this.width}px`;
    this.draw();
  }

  /** Draw before the next frame of the screen. */
  draw() {
    if (this.#drawing || !this.sound || !this.width) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      const start = this.#timeAt(0);
      this.#paint({ start, end: Math.min(start + this.width / this.#pxPerS, this.sound.duration) });
    });
  }

  #paint(view) {
    const style = getComputedStyle(this.scroller);
    const pen = this.canvas.getContext("2d");
    pen.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    pen.clearRect(0, 0, this.width, HEIGHT);
    const colour = (name) => style.getPropertyValue(`--${name}`);
    const place = (time) => (time - view.start) * this.#pxPerS;
    const surface = { pen, colour, place, font: colour("ipa-font") };
    this.#paintWave(surface, view);
    this.#paintSpectrum(surface, view);
    this.#paintPhones(surface, view);
    this.#paintAxis(surface, view);
    pen.fillStyle = colour("cursor");
    pen.fillRect(place(this.cursor) - 0.75, 0, 1.5, ROWS.axis[0]);
  }

  #paintWave({ pen, colour, place }, view) {
    const [top, height] = ROWS.wave;
    const scale = (0.95 * height) / 2 / this.sound.peak;
    pen.fillStyle = colour("wave");
    for (let x = 0; x < place(view.end); x++) {
      const [low, high] = this.sound.extremes(this.#timeAt(x), this.#timeAt(x + 1));
      pen.fillRect(x, top + height / 2 - high * scale, 1, Math.max((high - low) * scale, 1));
    }
  }

  #paintSpectrum({ pen, colour, place }, view) {
    const [top, height] = ROWS.spectrum;
    const ink = colour("ink-rgb").split(",").map(Number);
    const left = this.scroller.scrollLeft;
    for (let i = Math.floor(left / TILE_PX); i * TILE_PX < left + place(view.end); i++) {
      pen.drawImage(this.sound.tile(i, this.#pxPerS, ink), Math.round(i * TILE_PX - left), top, TILE_PX, height);
    }
    pen.fillStyle = colour("grid");
    for (const hz of HZ_LINES) pen.fillRect(0, top + height * (1 - hz / TOP_HZ), place(view.end), 1);
  }

  #paintPhones({ pen, colour, place, font }, view) {
    const [top, height] = ROWS.phones;
    const shown = [];
    for (let i = this.#firstAfter(view.start); this.phones[i]?.start < view.end; i++) {
      const { symbol, start, end, confidence } = this.phones[i];
      shown.push({ symbol, left: place(start), right: place(end), confidence, isMarked: i === this.marked });
    }
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    const size = LABEL_PX.find((px) => {
      pen.font = `${px}px ${font}`;
      return haveRoom(pen, shown);
    });
    for (const { symbol, left, right, confidence, isMarked } of shown) {
      pen.globalAlpha = isMarked ? 1 : 0.12 + 0.3 * confidence;
      pen.fillStyle = colour("accent");
      pen.fillRect(left, top, right - left, height);
      pen.globalAlpha = 1;
      if (!size) continue;
      pen.fillStyle = colour(isMarked ? "on-accent" : "text");
      pen.fillText(symbol, (left + right) / 2, top + height / 2);
      pen.fillStyle = colour("boundary");
      for (const x of [left, right]) pen.fillRect(x - 0.5, ROWS.spectrum[0], 1, top + height - ROWS.spectrum[0]);
    }
    if (size || !shown.length) return;
    pen.font = `14px ${colour("ui-font")}`;
    pen.fillStyle = colour("text");
    pen.fillText("zoom in to read the phones", this.width / 2, top + height / 2);
  }

  #paintAxis({ pen, colour, place }, view) {
    const [top] = ROWS.axis;
    const step = niceStep(TICK_SPACING_PX / this.#pxPerS);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    pen.font = `12px ${colour("ui-font")}`;
    pen.textBaseline = "top";
    pen.fillStyle = colour("muted");
    for (let i = Math.ceil(view.start / step - 1e-9); i * step <= view.end; i++) {
      const x = place(i * step);
      pen.textAlign = x < 8 ? "left" : x > this.width - 12 ? "right" : "center";
      pen.fillRect(x, top, 1, 4);
      pen.fillText(`${(i * step).toFixed(digits)} s`, x, top + 7);
    }
  }
}

/** Whether nearly all labels fit beside each other, centred in their intervals. */
function haveRoom(pen, intervals) {
  let [free, crowded] = [-Infinity, 0];
  for (const { symbol, left, right } of intervals) {
    const half = pen.measureText(symbol).width / 2;
    const middle = (left + right) / 2;
    crowded += middle - half < free;
    free = middle + half;
  }
  return crowded <= intervals.length * MOST_CROWDED;
}

/** The least of 1, 2, 5, 10, ... that is no less than a number. */
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= least);
}
