// Makes the page nicer: drop, paste, early checks, and the answer without a reload.
// Everything also works without it.
const form = document.getElementById("form");
const input = document.getElementById("image");
const drop = document.getElementById("drop");
const button = form.querySelector("button");
const status = document.getElementById("status");
const problem = document.getElementById("problem");
const maxBytes = Number(form.dataset.maxBytes);

document.documentElement.classList.add("script");

/** Say what is wrong with the choice, or nothing. */
function complain(words) {
  problem.textContent = words;
  input.setAttribute("aria-invalid", words ? "true" : "false");
}

/** Put dropped or pasted files into the form, as if they had been chosen. */
function take(files) {
  const photos = [...files].filter((file) => file.type.startsWith("image/"));
  if (photos.length === 0) {
    complain("That is not a photo. Drop or paste an image file.");
    return;
  }
  const one = new DataTransfer();
  one.items.add(photos[0]);
  input.files = one.files;
  check();
  button.focus();
}

/** Whether the chosen photo can be sent; tells why not. */
function check() {
  const tooLarge = input.files.length > 0 && input.files[0].size > maxBytes;
  complain(tooLarge ? "The file is too large. Choose a photo of at most 20 MB." : "");
  return !tooLarge;
}

/** Show whether an answer is awaited; the button stays focusable meanwhile. */
function setBusy(busy) {
  form.setAttribute("aria-busy", String(busy));
  button.setAttribute("aria-disabled", String(busy));
  button.textContent = busy ? "Examining…" : "Examine";
  if (busy) status.textContent = "The photo is being examined.";
}

/** Put the answer's part of the received page into this one. */
function show(html) {
  const page = new DOMParser().parseFromString(html, "text/html");
  const answer = document.getElementById("answer");
  answer.replaceChildren(...page.getElementById("answer").childNodes);
  drop.replaceChildren(...page.getElementById("drop").childNodes);
  document.title = page.title;
  status.textContent = document.getElementById("headline").textContent;
  answer.scrollIntoView({ block: "start" });
}

async function send(event) {
  event.preventDefault();
  if (form.getAttribute("aria-busy") === "true" || !check()) return;
  setBusy(true);
  try {
    const response = await fetch(form.action, { method: "POST", body: new FormData(form) });
    show(await response.text());
  } catch {
    status.textContent = "";
    complain("No answer came. Check your connection and try again.");
  } finally {
    setBusy(false);
  }
}

form.addEventListener("submit", send);
input.addEventListener("change", check);
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length > 0) take(event.clipboardData.files);
});
for (const type of ["dragover", "dragleave", "drop"]) {
  // On the whole document: a photo dropped beside the field must not replace the page.
  document.addEventListener(type, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", type === "dragover");
    if (type === "drop") take(event.dataTransfer.files);
  });
}
