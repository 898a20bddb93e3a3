// Makes the page nicer: drop, paste, several photos at once with their progress, heat maps on
// demand, reports. Everything else also works without it.
const AT_ONCE = 3; // photos on their way at the same time
const MOST = 50; // photos taken at once
const TIMEOUT = 120_000; // ms without progress
const LONGEST_PAUSE = 120; // s that are waited for a rate; after longer ones people decide

const form = document.getElementById("form");
const drop = document.getElementById("drop");
const answer = document.getElementById("answer");
const status = document.getElementById("status");
const problem = document.getElementById("problem");
const words = JSON.parse(form.dataset.text);
const maxBytes = Number(form.dataset.maxBytes);

const waiting = []; // jobs: {name, fill, card, size}; of a sample the size is null
const jobs = new WeakMap(); // the job that each result came from
let running = 0;
let pausedUntil = 0; // ms, as performance.now() has them

document.documentElement.classList.add("script");

/** A sentence with its {blanks} filled in. */
function fill(sentence, blanks) {
  return sentence.replace(/{(\w+)}/g, (_, name) => blanks[name]);
}

function clone(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

/** Take what a drop or the clipboard brings; of a folder the browser only gives its name. */
function takeFrom(data) {
  const items = [...data.items].filter((item) => item.kind === "file");
  const folders = items.filter((item) => item.webkitGetAsEntry?.()?.isDirectory);
  const files = [...data.files].filter((_, i) => !folders.includes(items[i]));
  if (files.length > 0 || folders.length === 0) take(files);
  if (folders.length > 0) problem.textContent = words.folder;
}

/** Take files from a field, a drop or the clipboard. */
function take(files) {
  const photos = [...files].slice(0, MOST);
  problem.textContent = "";
  if (files.length > MOST) problem.textContent = fill(words.too_many, { count: MOST });
  if (photos.length === 0) problem.textContent = words.nothing;
  for (const photo of photos) {
    add(photo.name || words.pasted, photo.size, (data) => data.append("image", photo));
  }
}

/** Show a photo as waiting, and send it when it is its turn. */
function add(name, size, fillIn) {
  const job = { name, size, fill: fillIn, card: clone("waiting") };
  // The error of a page that was asked for before this one is no answer to a photo.
  for (const part of answer.querySelectorAll(".error")) {
    if (!part.querySelector(".file")) part.remove();
  }
  answer.append(job.card);
  document.body.classList.add("answered");
  // Results are kept nowhere but on this page.
  for (const link of document.querySelectorAll(".brand, nav a:not([aria-current])")) link.target = "_blank";
  if (waiting.length + running === 0) job.card.scrollIntoView({ block: "nearest" });
  enqueue(job);
}

function enqueue(job) {
  job.card.querySelector(".file").textContent = job.name;
  job.card.querySelector("progress").ariaLabel = fill(words.progress, job);
  waiting.push(job);
  next();
}

function next() {
  while (running < AT_ONCE && waiting.length > 0 && performance.now() >= pausedUntil) {
    running += 1;
    examine(waiting.shift()).then(() => {
      running -= 1;
      next();
    });
  }
}

/** Send one photo and put what comes of it in its place. Never throws. */
async function examine(job) {
  if (job.size > maxBytes) {
    fail(job, words.too_large, words.too_large_advice);
    return;
  }
  if (job.size === 0) {
    fail(job, words.empty, words.empty_advice);
    return;
  }
  progress(job, 0);
  try {
    let { page, code, wait } = await send(job, {}, (share) => progress(job, share));
    let part = page.getElementById("answer")?.firstElementChild;
    // Another tab may have been given another token; ours is renewed from every answer. The others
    // that are on their way may have changed it again.
    for (let left = AT_ONCE; left > 0 && part?.dataset.code === "form_expired"; left -= 1) {
      ({ page, code, wait } = await send(job, {}, (share) => progress(job, share)));
      part = page.getElementById("answer")?.firstElementChild;
    }
    if (code === 429 && wait > 0 && wait <= LONGEST_PAUSE) pause(job, wait);
    else if (part) place(job, part);
    else fail(job, ...reason(code));
  } catch {
    fail(job, words.lost, words.lost_advice);
  }
}

/** Too many photos in too short a time: this one goes on, before the others, after so many s. */
function pause(job, seconds) {
  job.card.querySelector("progress").value = 0;
  const text = fill(words.pausing, { seconds });
  job.card.querySelector(".state").textContent = text;
  tell(job, text);
  waiting.unshift(job);
  pausedUntil = Math.max(pausedUntil, performance.now() + 1000 * seconds);
  setTimeout(next, pausedUntil - performance.now() + 50);
}

/** What an answer means that is not the page's: a proxy's, most likely. */
function reason(code) {
  if (code === 413) return [words.too_large, words.too_large_advice];
  if (code === 429 || code >= 500) return [words.busy, words.busy_advice];
  return [words.lost, words.lost_advice];
}

/** Post the form with the job's photo; the page that comes back, its HTTP status, and the seconds
 * that it asks to wait. */
function send(job, options, onProgress) {
  const data = new FormData(form);
  for (const field of ["image", "sample", "heat"]) data.delete(field);
  for (const [name, value] of Object.entries(options)) data.set(name, value);
  job.fill(data);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const began = performance.now();
    // It counts from the start, and a slow line may take minutes for a photo that is on its way.
    const patience = () => (request.timeout = performance.now() - began + TIMEOUT);
    request.open("POST", form.action);
    patience();
    request.upload.onprogress = (event) => {
      patience();
      onProgress(event.loaded / event.total);
    };
    request.upload.onload = () => onProgress(1);
    request.onprogress = patience; // pictures of many faces take their time to come, too
    request.onload = () => {
      const page = new DOMParser().parseFromString(request.responseText, "text/html");
      renew(page);
      const wait = Number(request.getResponseHeader("Retry-After"));
      resolve({ page, code: request.status, wait });
    };
    request.onerror = request.ontimeout = request.onabort = reject;
    request.send(data);
  });
}

/** Take over the form's token from a page that came back: ours may have expired. */
function renew(page) {
  const [old, fresh] = [form, page].map((part) => part.querySelector("[name=csrf_token]"));
  if (old && fresh) old.value = fresh.value;
}

function progress(job, share) {
  const bar = job.card.querySelector("progress");
  const state = job.card.querySelector(".state");
  if (share < 1) {
    bar.value = share;
  } else {
    bar.removeAttribute("value"); // how long the network takes is not known
    tell(job, words.examining);
  }
  state.textContent =
    share < 1 ? fill(words.sending, { percent: Math.floor(100 * share) }) : words.examining;
}

function place(job, part) {
  const failed = part.classList.contains("error");
  if (failed) {
    if (!part.querySelector(".file")) part.prepend(nameOf(job)); // refused before it was looked at
    addActions(job, part);
  }
  replace(job, part);
  jobs.set(part, job);
  announce(job.name, part);
  if (!failed && answer.children.length === 1) part.scrollIntoView({ block: "nearest" });
}

function nameOf(job) {
  const name = document.createElement("p");
  name.className = "file";
  name.textContent = job.name;
  return name;
}

function fail(job, title, advice) {
  const part = clone("failed");
  part.querySelector(".file").textContent = job.name;
  part.querySelector(".headline").textContent = title;
  part.querySelector(".advice").textContent = advice;
  addActions(job, part);
  replace(job, part);
  announce(job.name, part);
}

/** Put another element in the job's place, and keep the keyboard where it was. */
function replace(job, part) {
  const focused = job.card.contains(document.activeElement);
  job.card.replaceWith(part);
  job.card = part;
  if (focused) {
    part.tabIndex = -1;
    part.focus();
  }
}

/** Say to those who do not see it what becomes of a photo. */
function tell(job, text) {
  status.textContent = `${job.name}: ${text}`;
}

function announce(name, part) {
  const verdict = part.querySelector(".headline").textContent.trim();
  status.textContent = fill(words.done, { name, verdict });
  document.title = `${verdict} – ${words.site}`;
}

function addActions(job, part) {
  const actions = clone("again");
  const [retry, remove] = actions.children;
  retry.ariaLabel = fill(words.retry_name, job);
  remove.ariaLabel = fill(words.remove_name, job);
  retry.addEventListener("click", () => {
    replace(job, clone("waiting"));
    enqueue(job);
  });
  remove.addEventListener("click", () => {
    part.remove();
    document.title = words.site;
    if (answer.children.length === 0) document.body.classList.remove("answered");
    document.getElementById("image").focus();
  });
  part.append(actions);
}

/** Fetch the heat maps of a result's faces the first time that one of them is opened. */
async function explain(details) {
  const result = details.closest(".result");
  const job = jobs.get(result);
  const say = (text) => result.querySelectorAll(".heat [role=status]").forEach((status) => {
    status.textContent = text;
  });
  if (!job) say(words.heat_resend); // examined before this script was there
  if (!job || job.explaining || details.querySelector("img")) return;
  job.explaining = true;
  say(words.heat_loading);
  const bodies = result.querySelectorAll(".heat .body");
  try {
    const { page } = await send(job, { heat: "true" }, () => {});
    const found = page.querySelectorAll(".heat .body");
    if (found.length !== bodies.length) throw new Error("no answer");
    bodies.forEach((body, i) => body.replaceChildren(...found[i].childNodes));
    tell(job, words.heat_ready);
    jobs.delete(result); // it has all there is
  } catch {
    say(words.heat_failed);
  } finally {
    job.explaining = false;
  }
}

/** Print one result alone, with its details open. */
function print(result) {
  result.classList.add("printed");
  document.body.classList.add("printing");
  const closed = result.querySelectorAll(".facts:not([open]), .views:not([open])");
  closed.forEach((details) => (details.open = true));
  window.addEventListener(
    "afterprint",
    () => {
      closed.forEach((details) => (details.open = false));
      result.classList.remove("printed");
      document.body.classList.remove("printing");
    },
    { once: true },
  );
  window.print();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const sample = event.submitter?.value;
  if (sample) {
    document.body.classList.add("sampled"); // who tries one tries another
    const name = event.submitter.textContent.trim();
    add(name, null, (data) => data.set("sample", sample));
  }
});

for (const input of form.querySelectorAll("input[type=file]")) {
  const taken = () => {
    if (input.files.length > 0) take(input.files);
    input.value = ""; // so that the same photo can be chosen again
  };
  input.addEventListener("change", taken);
  taken(); // chosen before this script was there
}

window.addEventListener("beforeunload", (event) => {
  if (running + waiting.length > 0) event.preventDefault();
});

answer.addEventListener("click", (event) => {
  if (event.target.matches(".print")) print(event.target.closest(".result"));
});

document.addEventListener(
  "toggle",
  (event) => {
    if (event.target.matches(".heat[open]")) explain(event.target);
  },
  true, // it does not bubble
);

document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length > 0) takeFrom(event.clipboardData);
});

for (const type of ["dragover", "dragleave", "drop"]) {
  // On the whole document: a photo dropped beside the field must not replace the page.
  document.addEventListener(type, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", type === "dragover");
    if (type === "drop") takeFrom(event.dataTransfer);
  });
}
