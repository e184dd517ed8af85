// Texts of numbers and verdicts.

const CHANNELS = { 1: "mono", 2: "stereo" };

export function clock(seconds) {
  const whole = Math.floor(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const rest = String(whole % 60).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

export function megabytes(bytes) {
  return bytes < 999_500 ? `${Math.ceil(bytes / 1000)} kB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

export function facts({ inspection: found, bytes }) {
  const parts = [found.codec.toUpperCase()];
  if (found.bitrate_bps) parts[0] += ` ${Math.round(found.bitrate_bps / 1000)} kbps`;
  parts.push(`${found.sample_rate / 1000} kHz`, CHANNELS[found.channels] ?? `${found.channels} channels`);
  if (found.seconds) parts.push(clock(found.seconds));
  return [...parts, megabytes(bytes)].join(" · ");
}

export function judgement({ inspection: found }) {
  const verdict = {
    lossy: "Lossy",
    lossless: "Lossless: there may be nothing to restore",
    transcode: `Made from a lossy file${found.history ? ` (${found.history})` : ""}`,
  }[found.verdict] ?? "Not certain whether it lost something";
  return [`${verdict}: ${found.reasons.join("; ")}`, ...found.warnings].join(". ");
}

export function waiting(position) {
  if (!position) return "Next in the queue";
  return position === 1 ? "Waiting, 1 before it" : `Waiting, ${position} before it`;
}

export const FORMATS = {
  flac24: "FLAC, 24 bit", flac16: "FLAC, 16 bit", wav24: "WAV, 24 bit", wav16: "WAV, 16 bit", float: "WAV, 32-bit float",
  alac24: "ALAC, 24 bit", alac16: "ALAC, 16 bit", mp3: "MP3, 320 kbps", aac: "AAC, 256 kbps", opus: "Opus, 192 kbps",
};
