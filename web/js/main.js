// The page: what is on it, and what happens when.

import { decode } from "./audio.js";
import { SAMPLE_RATE } from "./constants.js";
import { Engine } from "./engine.js";
import { DEFAULT_FOLDER, fetchModel, hostElsewhere, readModel } from "./model.js";
import { Player } from "./player.js";
import { Recorder } from "./recorder.js";
import { textGrid, tiersOf } from "./textgrid.js";
import { Timeline } from "./timeline.js";
import { phonesOf, writtenPhones } from "./transcript.js";
import { encodeWav } from "./wav.js";

/** Phones that the model finds less probable than this are underlined. */
const UNSURE = 0.5;
/** How far the cursor moves by a key. */
const NUDGE_S = 0.1;

const element = (id) => document.getElementById(id);
const engine = new Engine();
const player = new Player(onTime, onStop);
const timeline = new Timeline(element("timeline"), { onPhone: playPhone, onPoint: point, onSeek: seek });
const recorder = new Recorder(onSound);
let model = null;
let recording = null;
let transcript = null;
let phones = [];
/** "off", "asked" for while the browser asks the person, or "on". */
let microphone = "off";
/** Whether what is played moves the mark from phone to phone; a phone that is played alone keeps it. */
let isFollowing = false;

// Messages

/** @param {number | null} [progress] share that is done; null: nobody knows @param {string} [done] the same in words */
function say(message, progress, done = "") {
  // The same words again would be read out again.
  if (element("message").textContent !== message) element("message").textContent = message;
  element("done").textContent = done;
  const bar = element("progress");
  bar.hidden = progress === undefined;
  if (progress === null) bar.removeAttribute("value");
  else if (progress !== undefined) bar.value = progress;
}

const complain = (error) => (element("error").textContent = error.message);
const forgive = () => (element("error").textContent = "");

/** Run a job with the page marked as busy; an error becomes one line. One job at a time. */
async function busy(job) {
  if (document.body.classList.contains("busy")) return complain(new Error("one thing at a time: wait until this is done"));
  forgive();
  const focused = document.activeElement;
  setBusy(true);
  try {
    await job();
  } catch (error) {
    say("");
    complain(error);
  }
  setBusy(false);
  // What is disabled loses the focus, and who has no mouse, their place.
  if (document.activeElement === document.body) focused?.focus();
}

function setBusy(is) {
  document.body.classList.toggle("busy", is);
  for (const id of ["file", "record", "model-files"]) element(id).disabled = is;
}

// The model

async function useModel(files) {
  say("Preparing the model", null);
  const { frameShift, numTokens } = await engine.open(files.model, files.tokens);
  model = files.name;
  element("model-name").textContent = files.name;
  const megabytes = (files.model.length / 1e6).toFixed(1);
  element("model-facts").textContent = `${megabytes} MB, ${numTokens} symbols, ${Math.round(1 / frameShift)} frames per second`;
  element("model").open = false;
  say("");
}

/** The model that the address names, after a question where it is another machine's; otherwise the page's own. */
function useFirstModel() {
  const source = new URLSearchParams(location.search).get("model") ?? DEFAULT_FOLDER;
  const host = hostElsewhere(source);
  if (!host) return busy(() => useModelFrom(source));
  element("elsewhere-host").textContent = host;
  element("elsewhere").hidden = false;
  element("elsewhere-own").focus();
  const answer = (chosen, mayLeave) => {
    element("elsewhere").hidden = true;
    busy(() => useModelFrom(chosen, mayLeave));
  };
  element("elsewhere-load").addEventListener("click", () => answer(source, true), { once: true });
  element("elsewhere-own").addEventListener("click", () => answer(DEFAULT_FOLDER, false), { once: true });
}

async function useModelFrom(source, mayLeave = false) {
  say("Loading the model", null);
  try {
    await useModel(await fetchModel(source, (share) => say("Loading the model", share), mayLeave));
  } catch (error) {
    element("model").open = true;
    throw error;
  }
}

// Recordings

async function transcribe(name, samples) {
  if (!model) throw new Error("there is no model yet; choose its two files below");
  recording = { name, samples };
  transcript = null;
  element("name").textContent = name;
  element("result").hidden = false;
  show([], "");
  player.load(samples);
  timeline.load(samples);
  tellCursor();
  enableResult(false);
  say("Listening", null);
  const seconds = samples.length / SAMPLE_RATE;
  transcript = await engine.transcribe(samples, (share) => {
    if (share) say("Listening", share, `${Math.round(share * seconds)} of ${Math.round(seconds)} s`);
  });
  const { tokens, duration, confidence, between } = transcript;
  const count = phonesOf(tokens).length;
  const found = `${count} phone${count === 1 ? "" : "s"} found in ${duration.toFixed(2)} s, mean confidence ${confidence.toFixed(2)}.`;
  show(tokens, tokens.length ? found : `No phones were found in ${duration.toFixed(2)} s.`, between);
  enableResult(true);
  say("");
}

const transcribeFile = (file) =>
  busy(async () => {
    say("Reading the recording", null);
    await transcribe(file.name, await decode(await file.arrayBuffer(), file.name));
  });

async function toggleRecording() {
  if (microphone === "off") await startRecording();
  else if (microphone === "on") await stopRecording();
}

async function startRecording() {
  forgive();
  setRecording("asked");
  try {
    await recorder.start();
    setRecording("on");
  } catch (error) {
    setRecording("off");
    complain(error);
  }
}

async function stopRecording() {
  const now = new Date().toISOString().slice(0, 19).replace("T", "-").replaceAll(":", "");
  await busy(async () => {
    const samples = await recorder.stop().finally(() => setRecording("off"));
    if (!samples.length) throw new Error("nothing was recorded");
    await transcribe(`recording-${now}.wav`, samples);
  });
}

function setRecording(state) {
  microphone = state;
  const isOn = state === "on";
  element("record").classList.toggle("recording", isOn);
  element("record-label").textContent = isOn ? "Stop" : "Record";
  element("record-time").textContent = "";
  element("level").hidden = !isOn;
  const isTaken = state !== "off" || document.body.classList.contains("busy");
  for (const id of ["file", "model-files"]) element(id).disabled = isTaken;
  say(isOn ? "Recording" : "");
}

function onSound(seconds, peak) {
  element("record-time").textContent = `${seconds.toFixed(1)} s`;
  element("level").value = peak;
}

// The result

function enableResult(is) {
  for (const id of ["save-textgrid", "copy"]) element(id).disabled = !is;
}

/** Write a transcript, each phone in a span of its own. */
function show(tokens, about, between = "") {
  phones = phonesOf(tokens);
  element("text").replaceChildren(...spansOf(tokens, between));
  const unsure = phones.some(({ confidence }) => confidence < UNSURE);
  element("about").textContent = about + (unsure ? ` Underlined: confidence below ${UNSURE}.` : "");
  timeline.show(phones);
  point(-1);
}

/** A span for each phone, lines breaking between them, and the spaces of words. */
function spansOf(tokens, between) {
  return writtenPhones(tokens, between).flatMap(({ space, letters }, i) => {
    const span = document.createElement("span");
    span.textContent = letters;
    span.dataset.phone = i;
    if (phones[i].confidence < UNSURE) span.className = "unsure";
    return [space, document.createElement("wbr"), span];
  });
}

/** Show a phone in the text, on the timeline and in words; -1 for none. */
function point(i) {
  element("text").querySelector(".marked")?.classList.remove("marked");
  element("text").querySelector(`[data-phone="${i}"]`)?.classList.add("marked");
  timeline.mark(i);
  element("point").textContent = i < 0 ? "" : described(phones[i]);
}

function described({ symbol, start, end, confidence }) {
  const times = `${start.toFixed(3)} to ${end.toFixed(3)} s, ${Math.round(1000 * (end - start))} ms`;
  return `${symbol}  ${times}, confidence ${confidence.toFixed(2)}`;
}

function playPhone(i) {
  const { start, end } = phones[i];
  isFollowing = false;
  player.play(start, end);
  timeline.moveTo(start, true);
  point(i);
  tellCursor();
}

function playOrPause() {
  if (player.playing && isFollowing) return player.stop();
  const { cursor, sound } = timeline;
  isFollowing = true;
  player.play(cursor < sound.duration - 0.01 ? cursor : 0, sound.duration);
  element("play").textContent = "Pause";
}

function onTime(time) {
  timeline.moveTo(time, true);
  const phone = timeline.phoneAt(time);
  if (isFollowing && phone !== timeline.marked) point(phone);
}

function onStop(time) {
  timeline.moveTo(time);
  element("play").textContent = "Play";
  if (isFollowing) tellCursor();
}

function seek(time) {
  const again = player.playing && isFollowing;
  player.stop();
  timeline.moveTo(Math.min(Math.max(time, 0), timeline.sound.duration), true);
  point(timeline.phoneAt(timeline.cursor));
  tellCursor();
  if (again) playOrPause();
}

/** For screen readers: where the cursor is, and on which phone. Not while it plays, into the sound. */
function tellCursor() {
  const { cursor, marked, sound } = timeline;
  const values = { valuemax: sound.duration.toFixed(3), valuenow: cursor.toFixed(3) };
  values.valuetext = marked < 0 ? `${cursor.toFixed(3)} s` : described(phones[marked]);
  for (const [name, value] of Object.entries(values)) element("timeline").setAttribute(`aria-${name}`, value);
}

function step(by) {
  if (!phones.length) return;
  const next = timeline.marked >= 0 ? timeline.marked + by : phones.findIndex(({ end }) => end > timeline.cursor);
  playPhone(Math.min(Math.max(next, 0), phones.length - 1));
}

function save(suffix, content, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = recording.name.replace(/\.[^.]*$/, "") + suffix;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function copy() {
  forgive();
  try {
    await navigator.clipboard.writeText(transcript.text);
    say("Copied");
  } catch {
    complain(new Error("the browser did not allow copying; mark the text and copy it by hand"));
  }
}

// Events

const KEYS = {
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
  "Shift+ArrowLeft": () => seek(timeline.cursor - NUDGE_S),
  "Shift+ArrowRight": () => seek(timeline.cursor + NUDGE_S),
  " ": playOrPause,
  "+": timeline.zoomIn,
  "=": timeline.zoomIn,
  "-": timeline.zoomOut,
  0: timeline.zoomToAll,
  Home: () => seek(0),
  End: () => seek(timeline.sound.duration),
};

function onKey(event) {
  const key = event.shiftKey && event.key.startsWith("Arrow") ? `Shift+${event.key}` : event.key;
  const action = !event.ctrlKey && !event.metaKey && !event.altKey && KEYS[key];
  if (!action) return;
  event.preventDefault();
  action();
}

/** The phone whose letters an event is about; -1 for none. */
const phoneOf = ({ target }) => Number(target.closest("[data-phone]")?.dataset.phone ?? -1);

function listen() {
  const on = (id, event, action) => element(id).addEventListener(event, action);
  on("file", "change", ({ target }) => {
    const [file] = target.files;
    target.value = "";
    if (file) transcribeFile(file);
  });
  on("model-files", "change", ({ target }) => {
    const files = [...target.files];
    target.value = "";
    if (files.length) busy(async () => useModel(await readModel(files)));
  });
  on("record", "click", toggleRecording);
  on("play", "click", playOrPause);
  on("zoom-in", "click", timeline.zoomIn);
  on("zoom-out", "click", timeline.zoomOut);
  on("zoom-all", "click", timeline.zoomToAll);
  on("timeline", "keydown", onKey);
  on("text", "mouseover", (event) => point(phoneOf(event)));
  on("text", "mouseleave", () => point(-1));
  on("text", "click", (event) => phoneOf(event) >= 0 && playPhone(phoneOf(event)));
  on("save-textgrid", "click", () => save(".TextGrid", textGrid(tiersOf(transcript.tokens), transcript.duration), "text/plain"));
  on("save-wav", "click", () => save(".wav", encodeWav(recording.samples, SAMPLE_RATE), "audio/wav"));
  on("copy", "click", copy);
  listenForDrops();
}

function listenForDrops() {
  const mark = (is) => document.body.classList.toggle("dragging", is);
  addEventListener("dragover", (event) => {
    event.preventDefault();
    mark(true);
  });
  addEventListener("dragleave", (event) => event.relatedTarget || mark(false));
  addEventListener("drop", (event) => {
    event.preventDefault();
    mark(false);
    const files = [...event.dataTransfer.files];
    if (microphone !== "off") return;
    if (files.some(({ name }) => name.endsWith(".onnx"))) busy(async () => useModel(await readModel(files)));
    else if (files.length) transcribeFile(files[0]);
  });
}

listen();
useFirstModel();
