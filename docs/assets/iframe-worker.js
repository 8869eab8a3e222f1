// Search works from file://, where a browser starts no Worker: the worker's script runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.waiting = []
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      const begin = () => {
        document.body.appendChild(this.frame)
        const inside = this.frame.contentWindow
        // What the script posts is for the page, not for its own frame.
        inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
        const script = inside.document.createElement("script")
        script.src = new URL(url, document.baseURI).href
        script.onload = () => {
          const messages = this.waiting
          this.waiting = undefined
          messages.forEach(message => this.postMessage(message))
        }
        inside.document.body.appendChild(script)
      }
      document.body ? begin() : addEventListener("DOMContentLoaded", begin)
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data)
      else this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }))
    }

    terminate() {
      this.frame.remove()
    }
  }
}
