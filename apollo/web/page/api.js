// The server's routes; errors have its reason as message.

export class ServerError extends Error {
  constructor(status, reason, retrySeconds) {
    super(reason);
    this.status = status;
    this.retrySeconds = retrySeconds;
  }
}

async function ask(method, path) {
  let answer;
  try {
    answer = await fetch(path, { method });
  } catch {
    throw new ServerError(0, "The server does not answer. Is apollo web still running?");
  }
  if (!answer.ok) throw await refusal(answer.status, answer.headers.get("Retry-After"), await answer.text());
  return answer;
}

function refusal(status, retryAfter, text) {
  let reason = `The server answered ${status}`;
  try {
    reason = JSON.parse(text).error;
  } catch { /* not the application's own answer */ }
  return new ServerError(status, reason, Number(retryAfter) || null);
}

const json = async (method, path) => (await ask(method, path)).json();

export const settings = () => json("GET", "api/settings");
export const songs = () => json("GET", "api/songs");
export const remove = (id) => ask("DELETE", `api/songs/${id}`);
export const make = (id, query) => json("POST", `api/songs/${id}/results?${query}`);
export const resultAddress = (id, query) => `api/songs/${id}/results?${query}`;
export const pictureAddress = (id, part) => `api/songs/${id}/spectrograms/${part}`;
export const piece = async (id, part, number, signal) => {
  const answer = await fetch(`api/songs/${id}/parts/${part}/${number}`, { signal });
  if (!answer.ok) throw await refusal(answer.status, null, await answer.text());
  return answer.arrayBuffer();
};

// Upload a file; `progress` gets the share that was sent. `stop` of the result ends it.
export function upload(file, progress) {
  const request = new XMLHttpRequest(); // fetch does not tell how much was sent
  const done = new Promise((resolve, reject) => {
    request.open("POST", `api/songs?name=${encodeURIComponent(file.name)}`);
    request.upload.addEventListener("progress", (event) => event.total && progress(event.loaded / event.total));
    request.addEventListener("load", () => {
      if (request.status === 201) resolve(JSON.parse(request.responseText));
      else reject(refusal(request.status, request.getResponseHeader("Retry-After"), request.responseText));
    });
    request.addEventListener("error", () => reject(new ServerError(0, "The upload was interrupted")));
    request.addEventListener("abort", () => resolve(null));
    request.send(file);
  });
  return { done, stop: () => request.abort() };
}
