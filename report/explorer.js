// Shows one head of one text: its tokens, shaded by the attention of the chosen one, and its whole map. What strangers
// wrote enters the page as text alone.
const $ = (id) => document.getElementById(id)
const made = (name, properties) => Object.assign(document.createElement(name), properties)
const held = JSON.parse($("held").textContent)
const arms = new Map(held.arms)
const form = document.forms[0], asked = form.elements
let text, chosen // the token that attends
let here, there, differences, largest // of the head shown: roots of both arms' weights, and what comes of them

// A text's maps are [arms, heads, pairs of tokens]: a weight's root in 255 steps, and for every arm but the first the
// difference to the arm before it, modulo 256.
const letters = atob(held.maps), bytes = new Uint8Array(letters.length)
for (let place = 0; place < bytes.length; place++) bytes[place] = letters.charCodeAt(place)
const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))
const roots = new Uint8Array(await new Response(unpacked).arrayBuffer())
let end = 0
for (const one of held.texts) {
  one.pairs = one.tokens.length * (one.tokens.length + 1) / 2
  one.start = end
  const step = held.heads.length * one.pairs
  end += arms.size * step
  for (let place = one.start + step; place < end; place++) roots[place] += roots[place - step]
}
const stored = (arm) => {
  const head = held.heads.findIndex((one) => one.join() === `${asked.layer.value},${asked.head.value}`)
  const start = text.start + ([...arms.keys()].indexOf(arm) * held.heads.length + head) * text.pairs
  return roots.subarray(start, start + text.pairs)
}

const pair = (query, key) => query * (query + 1) / 2 + key
const weight = (root) => (root / 255) ** 2
const signed = (number, digits = 3) => {
  const size = Math.abs(number).toFixed(digits)
  return Number(size) === 0 ? size : (number < 0 ? "−" : "+") + size
}
const marked = (token) => token.replace(/^ +$|[\n\t]/g, (blank) => ({"\n": "↵", "\t": "⇥"})[blank] ?? "␣".repeat(blank.length))
const named = (token) => `“${marked(text.tokens[token]).trim()}” (${text.places[token]})`
const boxes = () => [...$("text").querySelectorAll("[role=option]")]

// The tokens of the text, each in a box; what would not be seen of them has a mark.
const write = () => {
  const rows = text.tokens.map((token, at) => {
    const parts = token.split(/(^ +$|[\n\t])/), box = made("span", {role: "option"})
    box.append(...parts.map((part) => part === marked(part) ? part : made("i", {textContent: part})))
    for (const blank of box.children) blank.dataset.mark = marked(blank.textContent)
    const left = text.places[at] - (text.places[at - 1] ?? -1) - 1
    const gap = left ? [made("small", {textContent: `… ${left} tokens left out …`})] : []
    return [...gap, box, ...(token.includes("\n") ? [made("br")] : [])]
  })
  $("question").replaceChildren(...rows.slice(0, text.solution).flat())
  $("answer").replaceChildren(...rows.slice(text.solution).flat())
  $("answer").hidden = text.solution >= rows.length
}

// Choose the token that attends: every shade, the three tokens that stand out, and the address.
const choose = (token) => {
  chosen = token
  const compared = asked.show.value === "difference"
  const value = (key) => compared ? differences[pair(token, key)] : weight(here[pair(token, key)])
  const said = (key) => compared ? signed(value(key)) : value(key).toFixed(3)
  boxes().forEach((box, key) => {
    const later = key > token
    box.tabIndex = key === token ? 0 : -1
    box.ariaSelected = key === token
    box.className = later ? "later" : compared ? (value(key) < 0 ? "less" : "more") : "much"
    box.title = `${text.places[key]}: ${later ? "comes later" : said(key)}`
    box.style.setProperty("--shade", later ? 0 : compared ? Math.abs(value(key)) / largest : Math.sqrt(value(key)))
  })
  const ranked = [...Array(token + 1).keys()].sort((one, other) => Math.abs(value(other)) - Math.abs(value(one)))
  const three = ranked.slice(0, 3).map((key) => `${named(key)}:\u00a0${said(key)}`)
  const attends = compared ? `, compared with ${arms.get(asked.against.value)}, differs most at` : " attends most to"
  $("strongest").textContent = `${named(token)}${attends} ${three.join(", ")}.`
  $("maps").style.setProperty("--row", token / text.tokens.length)
  clearTimeout(choose.later) // browsers refuse an address that changes as fast as a key that is held down
  const address = `#${new URLSearchParams([...new FormData(form), ["token", text.places[token]]])}`
  if (location.protocol !== "about:") choose.later = setTimeout(() => history.replaceState(null, "", address), 300)
}

// Both maps, a pixel an entry: the alpha of a weight is the root that is stored.
const paint = () => {
  const size = text.tokens.length
  for (const canvas of document.querySelectorAll("canvas")) {
    const hue = (name) => getComputedStyle(canvas).getPropertyValue(`--${name}`).trim().split(" ")
    const [much, more, less] = ["much", "more", "less"].map(hue), image = new ImageData(size, size)
    for (let query = 0; query < size; query++)
      for (let key = 0; key < size; key++) {
        const place = pair(query, key), change = differences[place]
        const entry = key > query ? [128, 128, 128, 40] : canvas.id === "weight" ? [...much, here[place]]
          : [...(change < 0 ? less : more), Math.round(255 * Math.abs(change) / largest)]
        image.data.set(entry, 4 * (query * size + key))
      }
    canvas.width = canvas.height = size
    canvas.getContext("2d").putImageData(image, 0, 0)
  }
  $("maps").style.setProperty("--step", 1 / size)
  $("maps").style.setProperty("--prompt", text.solution / size)
}

const update = () => {
  const before = text, against = arms.get(asked.against.value)
  text = held.texts.find((one) => one.problem === asked.text.value)
  here = stored(asked.arm.value)
  there = stored(asked.against.value)
  differences = Array.from(here, (root, place) => weight(root) - weight(there[place]))
  largest = differences.reduce((most, change) => Math.max(most, Math.abs(change)), 0) || 1
  const most = Math.max(differences.findIndex((change) => Math.abs(change) === largest), 0)
  const query = text.tokens.findIndex((_, token) => pair(token, token) >= most)
  const first = text.tokens.reduce((sum, _, token) => sum + weight(here[pair(token, 0)]), 0) / text.tokens.length
  const moved = differences.reduce((sum, change) => sum + Math.abs(change), 0) / text.pairs
  const compared = asked.arm.value === asked.against.value ? "It is compared with itself."
    : `Compared with ${against}, a weight differs by ${moved.toFixed(4)} on average; the largest difference is ` +
      `${signed(differences[most], 2)}, at ${named(query)} looking at ${named(most - pair(query, 0))}.`
  $("summary").textContent = `${arms.get(asked.arm.value)}, layer ${asked.layer.value}, head ${asked.head.value}, ` +
    `${text.problem}: ${(100 * first).toFixed(0)}\u00a0% of the attention goes to the first token. ${compared}`
  for (const scale of document.querySelectorAll(".largest")) scale.textContent = largest.toFixed(2)
  if (text !== before) write()
  paint()
  choose(text === before ? chosen : query)
}

const offer = () => { // a layer's own heads
  const heads = held.heads.filter(([layer]) => `${layer}` === asked.layer.value).map(([, head]) => head)
  const kept = heads.sort((one, other) => one - other).findIndex((head) => `${head}` === asked.head.value)
  asked.head.replaceChildren(...heads.map((head) => new Option(head)))
  asked.head.selectedIndex = Math.max(kept, 0)
}

// What the address asks for, name by name; the head last, which depends on the layer.
const follow = () => {
  const names = ["text", "arm", "against", "show", "layer", "head"]
  const wishes = new URLSearchParams(location.hash.slice(1))
  const wrong = [...wishes].filter(([name]) => name !== "token" && !names.includes(name))
  for (const name of names) {
    const before = asked[name].value, wish = wishes.get(name) ?? before
    asked[name].value = wish
    if (!wish || asked[name].value !== wish) {
      wrong.push([name, wish])
      asked[name].value = before
    }
    if (name === "layer") offer()
  }
  text = undefined // so that a token is chosen anew
  update()
  const at = text.places.findIndex((place) => `${place}` === wishes.get("token"))
  if (at >= 0) choose(at)
  else if (wishes.has("token")) wrong.push(["token", wishes.get("token")])
  const said = wrong.map(([name, value]) => `${name} ${value}`.slice(0, 40)).join(", ")
  $("notice").textContent = said && `The address asks for what this page does not have, which is ignored: ${said}.`
}

form.onchange = () => { $("notice").textContent = ""; offer(); update() }
addEventListener("hashchange", follow)
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint)
const move = (at) => { choose(at); boxes()[at].focus() }
$("text").onclick = (event) => {
  const at = boxes().indexOf(event.target.closest("[role=option]"))
  if (at >= 0) move(at)
}
$("text").onkeydown = (event) => {
  const last = text.tokens.length - 1, back = Math.max(chosen - 1, 0), on = Math.min(chosen + 1, last)
  const at = {ArrowLeft: back, ArrowUp: back, ArrowRight: on, ArrowDown: on, Home: 0, End: last}[event.key]
  if (at === undefined || event.ctrlKey || event.altKey || event.metaKey) return
  event.preventDefault()
  move(at)
}
$("maps").onpointermove = $("maps").onclick = (event) => {
  if (event.target.nodeName !== "CANVAS") return
  const last = text.tokens.length - 1, width = event.target.clientWidth
  const place = (along) => Math.min(Math.max(Math.floor(along / width * (last + 1)), 0), last)
  const key = place(event.offsetX), query = place(event.offsetY), at = pair(query, key)
  $("entry").textContent = key > query ? `${named(query)} comes before ${named(key)} and does not see it.` :
    `${named(query)} looks at ${named(key)}: ${weight(here[at]).toFixed(3)}; in ${arms.get(asked.against.value)} ` +
    `${weight(there[at]).toFixed(3)}, difference ${signed(differences[at])}.`
  if (event.type === "click") choose(query)
}
follow()
