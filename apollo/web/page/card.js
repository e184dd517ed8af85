// One song: what it is, how far it is, and its player.
import * as api from "./api.js";
import { Mixer } from "./mixer.js";
import { FORMATS, clock, facts, judgement, megabytes, waiting } from "./words.js";

const STEP_SECONDS = 5;
let context = null; // one for all songs, from the first one that is played: browsers ask for a click before

const openContext = (sampleRate) => (context ??= new AudioContext({ sampleRate }));

export class Card {
  #settings;
  #song = null;
  #mixer = null;
  #download = null; // the query of the file that is being made
  #wanted = false; // whether it is to play, and may still be loading

  // `hooks`: opened(card), closed(card), removed(card), tell(text), refresh().
  constructor(settings, name, hooks) {
    this.#settings = settings;
    this.hooks = hooks;
    this.element = document.getElementById("song").content.firstElementChild.cloneNode(true);
    this.title = name;
    this.#part(".title").textContent = name;
    this.#part(".remove").addEventListener("click", () => this.hooks.removed(this));
    this.#part(".title").addEventListener("click", () => (this.open ? this.close() : this.show()));
    this.#preparePlayer();
    this.#prepareDownload();
  }

  get id() { return this.#song?.id ?? null; }

  get open() { return !this.#part(".player").hidden; }

  get ready() { return this.#song?.listening?.status === "ready"; }

  get busy() {
    const states = [this.#song?.listening, ...(this.#song?.results ?? [])];
    return states.some((state) => ["waiting", "working"].includes(state?.status));
  }

  get state() {
    const mixer = this.#mixer;
    return {
      name: this.title, version: mixer?.version ?? "after", strength: this.#strength, playing: Boolean(mixer?.playing),
      position: mixer?.position ?? 0,
    };
  }

  #part(selector) { return this.element.querySelector(selector); }

  #all(selector) { return [...this.element.querySelectorAll(selector)]; }

  // ---- how far it is

  uploading(share) {
    this.#progress(share === null ? "Waiting to upload" : "Uploading", share);
  }

  fail(reason) {
    const trouble = this.#part(".trouble");
    if (trouble.textContent === reason) return; // an alert is read aloud whenever it is set
    this.#progress("", undefined);
    trouble.textContent = reason;
  }

  #progress(text, share) {
    const bar = this.#part(".progress");
    this.#part(".state").textContent = text;
    bar.hidden = share === undefined;
    bar.setAttribute("aria-label", `${text || "Progress"}: ${this.title}`);
    if (share === null || share === undefined) bar.removeAttribute("value");
    else bar.value = share;
    const remove = this.#part(".remove");
    remove.textContent = bar.hidden ? "Remove" : "Cancel";
    remove.setAttribute("aria-label", `${remove.textContent} ${this.title}`);
  }

  // Show the state that the server sent.
  update(song) {
    const before = this.#song?.listening?.status;
    if (!this.#song) {
      this.#part(".facts").textContent = facts(song);
      this.#part(".judgement").textContent = judgement(song);
    }
    this.#song = song;
    const { status, progress, position, reason, warnings } = song.listening ?? {};
    if (status === "waiting") this.#progress(waiting(position), null);
    else if (status === "working") this.#progress("Restoring", progress);
    else if (status === "failed") this.fail(reason);
    else if (status === "ready" && before !== "ready") {
      this.#progress("", undefined);
      this.#part(".title").disabled = false;
      if (warnings.length) this.#part(".trouble").textContent = warnings.join(". ");
      this.hooks.tell(`${this.title} is ready`);
      this.hooks.ready(this);
    }
    this.#followDownload();
  }

  // ---- listening

  get #strength() { return this.#settings.model.has_noise ? Number(this.#part(".strength input").value) : 0; }

  #preparePlayer() {
    const { model, max_strength: most } = this.#settings;
    const slider = this.#part(".strength input");
    slider.max = most;
    slider.value = model.strength ?? 0;
    this.#part(".strength").hidden = !model.has_noise;
    this.#part(".hint").hidden = !model.has_noise;
    if (model.has_noise) this.#part(".caption").textContent = `After, at strength ${model.strength}`;
    slider.addEventListener("input", () => {
      this.#mixer?.setStrength(this.#strength);
      this.#show();
    });
    this.#part(".play").addEventListener("click", () => this.toggle());
    for (const button of this.#all(".version")) {
      button.addEventListener("click", () => this.hear(button.dataset.version));
    }
    const bar = this.#part(".position");
    bar.addEventListener("input", () => this.seek(Number(bar.value)));
    for (const picture of this.#all(".spectrogram")) {
      picture.addEventListener("click", (event) => {
        const { left, width } = picture.getBoundingClientRect();
        this.seek(((event.clientX - left) / width) * this.#mixer.seconds);
      });
    }
  }

  show() {
    if (!this.ready || this.open) return;
    const rate = this.#song.listening.sample_rate;
    this.#mixer = new Mixer(() => openContext(rate), this.#song, this.#strength);
    this.#mixer.onended = () => { this.#wanted = false; this.#show(); };
    this.#mixer.ontrouble = (error) => {
      this.#wanted = false;
      this.#part(".trouble").textContent = `It cannot be played: ${error.message}`;
      this.#show();
    };
    for (const image of this.#all("img")) image.src = api.pictureAddress(this.id, image.dataset.part);
    this.#part(".position").max = this.#mixer.seconds;
    this.#part(".player").hidden = false;
    this.#part(".title").setAttribute("aria-expanded", "true");
    this.hooks.opened(this);
    this.#show();
  }

  close() {
    this.#wanted = false;
    this.#mixer?.pause();
    this.#mixer = null;
    this.#part(".player").hidden = true;
    this.#part(".title").setAttribute("aria-expanded", "false");
    this.hooks.closed(this);
  }

  async toggle() {
    this.#wanted = !this.#wanted;
    this.#show();
    if (!this.#wanted) {
      this.#mixer.pause();
      this.#show();
      return;
    }
    await openContext(this.#song.listening.sample_rate).resume();
    if (this.#wanted) await this.#mixer?.play();
    this.#draw();
  }

  hear(version) {
    this.#mixer.setVersion(version);
    this.#show();
  }

  seek(seconds) {
    this.#mixer.seek(seconds);
    this.#show();
  }

  step(direction) { this.seek(this.#mixer.position + direction * STEP_SECONDS); }

  #show() {
    this.#part(".play").textContent = this.#wanted ? "Pause" : "Play";
    for (const button of this.#all(".version")) {
      button.setAttribute("aria-pressed", String(button.dataset.version === this.#mixer?.version));
    }
    const strength = this.#strength.toFixed(2);
    this.#part(".strength output").textContent = strength;
    if (this.#mixer) this.#tick();
  }

  #tick() {
    const { position, seconds } = this.#mixer;
    const bar = this.#part(".position");
    bar.value = position;
    bar.setAttribute("aria-valuetext", `${clock(position)} of ${clock(seconds)}`);
    this.#part(".time").textContent = `${clock(position)} / ${clock(seconds)}`;
    for (const cursor of this.#all(".cursor")) cursor.style.left = `${(100 * position) / seconds}%`;
  }

  #draw() {
    if (!this.#mixer?.playing) return;
    this.#tick();
    requestAnimationFrame(() => this.#draw());
  }

  // ---- download

  #prepareDownload() {
    const select = this.#part("select");
    const known = this.#settings.formats;
    for (const format of Object.keys(FORMATS).filter((one) => known.includes(one))) {
      select.add(new Option(FORMATS[format], format));
    }
    this.#part(".fetch").addEventListener("click", () => this.#make());
  }

  async #make() {
    const query = new URLSearchParams({ format: this.#part("select").value });
    if (this.#settings.model.has_noise) query.set("strength", this.#strength);
    this.#download = query;
    this.#making("Preparing the file");
    try {
      this.update(await api.make(this.id, query));
      this.hooks.refresh();
    } catch (error) {
      this.#endDownload(error.message);
    }
  }

  #followDownload() {
    const wanted = this.#download;
    if (!wanted) return;
    const strength = wanted.has("strength") ? Number(wanted.get("strength")) : null;
    const result = this.#song.results.find((one) => one.format === wanted.get("format") && one.strength === strength);
    if (result?.status === "ready") {
      this.#endDownload(`${megabytes(result.bytes)}, saved by the browser`);
      const link = document.createElement("a");
      link.href = api.resultAddress(this.id, wanted);
      link.download = "";
      link.click();
    } else if (result?.status === "failed") this.#endDownload(result.reason);
    else if (result?.status === "waiting") this.#making(waiting(result.position));
    else if (result) this.#making(`Preparing the file: ${Math.round(100 * (result.progress ?? 0))} %`);
  }

  #making(text) {
    this.#part(".fetch").disabled = true;
    this.#part(".making").textContent = text;
  }

  #endDownload(text) {
    this.#download = null;
    this.#part(".fetch").disabled = false;
    this.#part(".making").textContent = text;
  }
}
