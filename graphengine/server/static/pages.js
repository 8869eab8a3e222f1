// The pages of `graphengine serve`: they render what /v1 says.

import { $, ask, h, Refused } from "./basics.js";
import { StartPage } from "./start_page.js";
import { WorkflowPage } from "./workflow_page.js";

async function open() {
  const session = await ask("GET", "/session");
  $("editor-link").hidden = !session.editor;
  $("logout").hidden = !session.login;
  if (session.login) $("logout").firstChild.title = `Log ${session.user} out`;
  if (document.body.dataset.page === "index") await new StartPage().open(session);
  else await new WorkflowPage(decodeURIComponent(location.pathname.slice("/w/".length))).open(session);
}

open().catch((error) => {
  if (!(error instanceof Refused)) throw error;
  $("content").prepend(h("p", { class: "card error", role: "alert" }, error.message));
});
