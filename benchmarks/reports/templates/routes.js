// The address says what is shown: #suite=KEY, or #row=KEY/NAME, a page in a dialog. Links to either work, and so does Back.
function route() {
  const [, what, key, row] = /^#(suite|row)=([^/]+)(?:\/(.*))?$/.exec(location.hash) ?? [];
  if (key) showSuite(key);
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  if (what === "row") {
    let name = row ?? "";
    try { name = decodeURIComponent(name); } catch (error) { /* as it is written */ }
    document.getElementById(`row-${key}-${name}`)?.showModal();
  }
}

function showSuite(key) {
  const sections = [...document.querySelectorAll("section.suite")];
  if (!sections.some((section) => section.dataset.suite === key)) return;
  sections.forEach((section) => { section.hidden = section.dataset.suite !== key; });
  document.querySelectorAll("nav.suites a").forEach((link) => {
    if (link.dataset.suite === key) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  });
  document.dispatchEvent(new CustomEvent("suitechange"));
}

for (const dialog of document.querySelectorAll("dialog.row")) {
  dialog.addEventListener("close", () => {
    if (location.hash.startsWith("#row=") && !document.querySelector("dialog[open]")) location.hash = `suite=${dialog.dataset.suite}`;
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });  // beside it
}
addEventListener("hashchange", route);
showSuite(document.querySelector("section.suite").dataset.suite);
route();
