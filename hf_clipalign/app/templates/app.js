// The parts of the page that Gradio has no component for: giving an image, and searching with one that was found.
(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);

  const set = (id, value) => {
    const field = document.querySelector(`#${id} textarea, #${id} input`);
    if (!field || field.value === value) return;
    field.value = value;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const setToken = (token) => set("ca-token", token);

  const say = (text, isError) => {
    const line = byId("ca-drop-message");
    line.textContent = text;
    line.classList.toggle("ca-error", Boolean(isError));
  };

  const show = (source, name) => {
    byId("ca-preview").src = source;
    byId("ca-given-name").textContent = name;
    byId("ca-given").hidden = false;
    say("", false);
  };

  const clear = () => {
    byId("ca-given").hidden = true;
    byId("ca-preview").removeAttribute("src");
    byId("ca-file").value = "";
    say("", false);
    setToken("");
  };

  // on a narrow window the results lie below the fold
  const showResults = () => {
    if (window.innerWidth > 640) return;
    const results = byId("ca-results");
    const answer = () => results.querySelector(".ca-results, .ca-error");
    const before = answer();
    const watch = new MutationObserver(() => {
      if (!answer() || answer() === before) return;
      watch.disconnect();
      results.scrollIntoView({ block: "start" });
    });
    watch.observe(results, { childList: true, subtree: true });
    setTimeout(() => watch.disconnect(), 10000);
  };

  const give = async (file) => {
    const most = Number(byId("ca-drop").dataset.caMaxBytes);
    if (file.size > most) {
      byId("ca-file").value = "";
      say(`${file.name}: more than ${most / 2 ** 20} MB; make the image smaller, or save it as JPEG.`, true);
      return;
    }
    say(`Reading ${file.name} …`, false);
    try {
      const reply = await fetch("uploads", {
        method: "POST",
        headers: { "Content-Type": "application/octet-stream", "X-File-Name": encodeURIComponent(file.name) },
        body: file,
      });
      const answer = await reply.json().catch(() => ({}));
      if (!reply.ok || !answer.token) throw new Error(answer.error ?? "The image could not be used.");
      show(answer.preview, answer.name);
      showResults();
      setToken(answer.token);
    } catch (error) {
      byId("ca-file").value = "";
      say(error instanceof TypeError ? "The image did not reach the app: is it still running?" : error.message, true);
    }
  };

  const imageOf = (transfer) => [...(transfer?.files ?? [])][0];

  document.addEventListener("change", (event) => {
    if (event.target.id === "ca-file" && event.target.files[0]) give(event.target.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const file = imageOf(event.clipboardData);
    if (file && byId("ca-drop")) give(file);
  });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      const zone = byId("ca-drop");
      if (!zone) return;
      zone.classList.toggle("ca-over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop" && imageOf(event.dataTransfer)) give(imageOf(event.dataTransfer));
    });
  }
  // browsers refuse to save an address of some megabytes, but not its content
  const save = (event, link) => {
    event.preventDefault();
    const text = atob(link.getAttribute("href").split(",")[1]);
    const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
    const copy = document.createElement("a");
    copy.href = URL.createObjectURL(new Blob([bytes], { type: "text/csv" }));
    copy.download = link.download;
    copy.click();
    setTimeout(() => URL.revokeObjectURL(copy.href), 60000);
  };

  document.addEventListener("click", (event) => {
    if (event.target.closest("#ca-clear")) return clear();
    const table = event.target.closest(".ca-csv");
    if (table) return save(event, table);
    if (event.target.closest("#ca-search")) return showResults();
    const image = event.target.closest("[data-ca-file]");
    if (!image) return;
    show(image.querySelector("img").src, image.dataset.caName);
    document.querySelector("#ca-tabs [role=tab]")?.click();
    showResults();
    set("ca-line", "");
    setToken(`file:${image.dataset.caFile}`);
    if (window.innerWidth > 640) byId("ca-drop").scrollIntoView({ block: "nearest" });
  });
  document.addEventListener("error", (event) => {
    if (event.target.matches?.(".ca-image img")) event.target.closest(".ca-image").classList.add("ca-missing");
  }, true);
})();
