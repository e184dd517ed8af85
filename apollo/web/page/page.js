// The page: songs are added, uploaded one after the other, and followed until they are ready.
import * as api from "./api.js";
import { Card } from "./card.js";
import { megabytes } from "./words.js";

const ACTIVE_MILLISECONDS = 400;
const IDLE_MILLISECONDS = 10_000;
const part = (id) => document.getElementById(id);
const cards = [];
const uploads = []; // [file, card] that wait
let settings = null;
let current = null; // the card that is open, and that keys act on
let running = null; // the upload that runs: { card, stop }
let timer = 0;

const hooks = {
  tell: (text) => (part("news").textContent = text),
  ready: (card) => current === null && card.show(),
  opened: (card) => {
    if (current !== card) current?.close();
    current = card;
  },
  closed: (card) => {
    if (current === card) current = null;
  },
  removed: remove,
  refresh: () => follow(),
};

// Add cards above those that are there, in the order of their names.
function addCards(names) {
  const added = names.map((name) => new Card(settings, name, hooks));
  cards.unshift(...added);
  part("songs").prepend(...added.map((card) => card.element));
  return added;
}

function addFiles(files) {
  const added = addCards([...files].map((file) => file.name));
  for (const [number, card] of added.entries()) {
    const file = files[number];
    if (file.size > settings.max_bytes) card.fail(`The file is larger than ${megabytes(settings.max_bytes)}`);
    else if (!file.size) card.fail("The file is empty");
    else {
      card.uploading(null);
      uploads.push([file, card]);
    }
  }
  sendNext();
}

async function sendNext() {
  if (running || !uploads.length) return;
  const [file, card] = uploads.shift();
  const sending = api.upload(file, (share) => card.uploading(share));
  running = { card, stop: sending.stop };
  try {
    const song = await sending.done;
    if (song) card.update(song);
  } catch (error) {
    if (error.retrySeconds) await tryLater(file, card, error);
    else card.fail(error.message);
  }
  running = null;
  follow();
  sendNext();
}

async function tryLater(file, card, { retrySeconds, message }) {
  part("news").textContent = `${message}, in ${retrySeconds} seconds`;
  card.uploading(null);
  running = { card, stop: () => {} };
  await new Promise((resolve) => setTimeout(resolve, 1000 * retrySeconds));
  if (cards.includes(card)) uploads.unshift([file, card]);
}

async function remove(card) {
  if (running?.card === card) running.stop();
  card.close();
  const waiting = uploads.findIndex(([, one]) => one === card);
  if (waiting >= 0) uploads.splice(waiting, 1);
  cards.splice(cards.indexOf(card), 1);
  card.element.remove();
  part("choose").focus();
  try {
    if (card.id) await api.remove(card.id);
  } catch (error) {
    if (error.status !== 404) part("trouble").textContent = error.message;
  }
}

async function follow() {
  const known = cards.filter((card) => card.id); // those that are added meanwhile are not in the answer
  try {
    const songs = new Map((await api.songs()).map((song) => [song.id, song]));
    part("trouble").textContent = "";
    for (const card of known.filter((one) => cards.includes(one))) {
      if (songs.has(card.id)) card.update(songs.get(card.id));
      else card.fail("The server has removed it");
    }
  } catch (error) {
    part("trouble").textContent = error.message;
  }
  const active = cards.some((card) => card.busy);
  clearTimeout(timer);
  timer = setTimeout(follow, active ? ACTIVE_MILLISECONDS : IDLE_MILLISECONDS);
}

function prepareDrop() {
  const files = part("files");
  part("choose").addEventListener("click", () => files.click());
  files.addEventListener("change", () => {
    addFiles(files.files);
    files.value = "";
  });
  let depth = 0; // of elements that the dragged files are over
  const over = (change) => (event) => {
    event.preventDefault();
    depth = change ? depth + change : 0;
    part("drop").classList.toggle("over", depth > 0);
  };
  addEventListener("dragenter", over(1));
  addEventListener("dragleave", over(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    over(0)(event);
    addFiles(event.dataTransfer.files);
  });
}

// What keys do, outside of controls that need them themselves.
function act(event) {
  if (!current || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("select")) return;
  const version = { 1: "before", 2: "after" }[event.key];
  const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (version) current.hear(version);
  else if (event.target.closest("input, button, a")) return;
  else if (event.key === " ") current.toggle();
  else if (direction) current.step(direction);
  else return;
  event.preventDefault();
}

async function start() {
  try {
    settings = await api.settings();
    prepareDrop();
    const minutes = Math.round(settings.max_seconds / 60);
    const hours = Math.round(settings.keep_seconds / 360) / 10;
    part("limits").textContent = `Up to ${megabytes(settings.max_bytes)} and ${minutes} minutes each`;
    part("keeping").textContent = `Songs stay with this server, and are deleted after ${hours} hours or when it ends.`;
    for (const song of await api.songs()) addCards([song.name])[0].update(song);
  } catch (error) {
    part("trouble").textContent = error.message;
    return;
  }
  document.addEventListener("keydown", act);
  follow();
}

Object.defineProperty(window, "apolloPage", { get: () => current?.state ?? null }); // to look at, not to touch
start();
