// A stock Yjs author for `skerry torture`: yjs and y-websocket as anybody installs them, and a journal of its promises.
//
//   node author.mjs DIRECTORY-WITH-node_modules '{"name", "journal", "address", "docs", "every"}'
//
// Room: what client/torture/author.py says of itself as `stock` holds here; orders and answers are the same.

import { createRequire } from 'node:module'
import { openSync, writeSync, fsyncSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { randomBytes } from 'node:crypto'
import { pathToFileURL } from 'node:url'

const require = createRequire(pathToFileURL(process.argv[2] + '/'))
const Y = require('yjs')
const { WebsocketProvider } = require('y-websocket')
const { WebSocket } = require('ws')
const options = JSON.parse(process.argv[3])
const ROOTS = ['text', 'map', 'array']
const MARK = /<[a-z]+[.][0-9a-f]+[.][0-9]+>/g
const MARKS_KEPT = 150
const life = randomBytes(4).toString('hex')
const journal = openSync(options.journal, 'a', 0o600)
let address = options.address
let going = false
let count = 0
console.error = console.warn = () => {}
process.setMaxListeners(0)

function note (line) {
  writeSync(journal, JSON.stringify({ ms: Number(process.hrtime.bigint() / 1000000n), ...line }) + '\n')
  fsyncSync(journal)
}

class Page {
  constructor (doc) {
    this.doc = doc
    this.ydoc = new Y.Doc()
    this.text = this.ydoc.getText('text')
    this.map = this.ydoc.getMap('map')
    this.array = this.ydoc.getArray('array')
    this.unsafe = [] // [own clock behind it, mark, address of the edge that it was sent to], not echoed yet
    this.echoed = 0
    this.connect()
  }

  connect () {
    const page = this
    class Heard extends WebSocket {
      constructor (url, protocols) {
        super(url, protocols)
        this.addEventListener('message', (event) => page.hear(new Uint8Array(event.data)))
      }
    }
    this.provider = new WebsocketProvider(address, this.doc, this.ydoc, {
      WebSocketPolyfill: Heard, disableBc: true, maxBackoffTime: 400
    })
  }

  // The echo of an own update fires no event in Yjs: it is read from the frame. 0 2 and length-prefixed bytes.
  hear (frame) {
    if (frame[0] !== 0 || frame[1] !== 2) return
    let at = 2
    while (frame[at++] > 127);
    for (const struct of Y.decodeUpdate(frame.subarray(at)).structs) {
      const { client, clock } = struct.id
      if (client === this.ydoc.clientID && clock <= this.echoed) this.echoed = Math.max(this.echoed, clock + struct.length)
    }
    while (this.unsafe.length && this.unsafe[0][0] <= this.echoed) {
      const [, mark, to] = this.unsafe.shift()
      note({ safe: [mark], stage: 'edge', at: to === address ? address : 'the log' })
    }
  }

  marks (root) {
    if (root === 'text') return this.text.toString().match(MARK) ?? []
    return root === 'map' ? [...this.map.keys()] : this.array.toArray()
  }

  edit () {
    const root = ROOTS[Math.floor(Math.random() * 3)]
    const mark = `<${options.name}.${life}.${++count}>`
    const here = this.marks(root)
    const deletes = here.length && (here.length > MARKS_KEPT || Math.random() < 0.3)
      ? [here[Math.floor(Math.random() * here.length)]] : []
    note({ try: mark, doc: this.doc, root, deletes })
    this.ydoc.transact(() => {
      if (root === 'map') {
        this.map.set(mark, Math.random())
        for (const key of deletes) this.map.delete(key)
      } else if (root === 'array') {
        for (const one of deletes) this.array.delete(this.array.toArray().indexOf(one), 1)
        this.array.insert(Math.floor(Math.random() * (this.array.length + 1)), [mark])
      } else {
        for (const one of deletes) this.text.delete(this.text.toString().indexOf(one), one.length)
        const ends = [0, ...[...this.text.toString().matchAll(MARK)].map((found) => found.index + found[0].length)]
        this.text.insert(ends[Math.floor(Math.random() * ends.length)], mark)
      }
    })
    this.unsafe.push([Y.getState(this.ydoc.store, this.ydoc.clientID), mark, address])
  }

  move () {
    this.provider.destroy()
    this.connect()
  }

  contents () {
    return {
      text: { kind: 'text', value: this.text.toString() },
      map: { kind: 'map', value: this.map.toJSON() },
      array: { kind: 'array', value: this.array.toJSON() }
    }
  }
}

note({ begin: options.name, pid: process.pid })
const pages = options.docs.map((doc) => new Page(doc))

function write () {
  if (going) pages[Math.floor(Math.random() * pages.length)].edit()
  setTimeout(write, -Math.log(1 - Math.random()) * options.every * 1000)
}

const input = createInterface({ input: process.stdin })
input.on('close', () => process.exit(0))
input.on('line', (line) => {
  const [order, ...words] = line.split(' ')
  const answer = { ok: order }
  if (order === 'pause') going = false
  else if (order === 'go') going = true
  else if (order === 'at') {
    address = words[0]
    for (const page of pages) page.move()
  } else if (order === 'show') answer.docs = Object.fromEntries(pages.map((page) => [page.doc, page.contents()]))
  else answer.error = `${order}: no such order`
  process.stdout.write(JSON.stringify(answer) + '\n')
})
process.stdout.write('ready\n')
going = true
write()
