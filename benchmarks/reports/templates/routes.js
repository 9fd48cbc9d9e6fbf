// The address says what is shown: #suite=KEY, or #row=KEY/NAME, a page in a dialog. Links to either work, and so does Back.
function addressed() {
  const [, what, key, row] = /^#(suite|row)=([^/]+)(?:\/(.*))?$/.exec(location.hash) ?? [];
  let name = row ?? "";
  try { name = decodeURIComponent(name); } catch (error) { /* as it is written */ }
  return { key, dialog: what === "row" ? document.getElementById(`row-${key}-${name}`) : null };
}

function route() {
  const { key, dialog } = addressed();
  if (key) showSuite(key);
  for (const open of document.querySelectorAll("dialog[open]")) if (open !== dialog) open.close();
  if (dialog && !dialog.open) dialog.showModal();
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
    if (addressed().dialog === dialog) location.hash = `suite=${dialog.dataset.suite}`;
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });  // beside it
}
addEventListener("hashchange", route);
showSuite(document.querySelector("section.suite").dataset.suite);
route();
