// What the agents have in common: JSON lines in, JSON lines out ({"id", "value"} or {"id", "error"}), and waiting.
//
// Room: requests and answers, and no Yjs: agent.mjs has that of version 13, agent-14.mjs that of version 14.

import { createInterface } from 'node:readline'

const POLL_MS = 10

// What stock code prints from now on, such as "Unable to compute message".
export function collectComplaints () {
  const complaints = []
  console.error = (...words) => complaints.push(words.map(String).join(' '))
  console.warn = console.error
  return complaints
}

// Sorted keys: maps have no order of their own.
function canonical (value) {
  if (value === undefined) return 'null'
  if (value === null || typeof value !== 'object') return JSON.stringify(value)
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`
  return `{${Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`).join(',')}}`
}

export async function until (look, { view: name, equals, ms }) {
  const wanted = canonical(equals)
  const ends = Date.now() + ms
  for (;;) {
    let got
    try { got = look() } catch (error) { got = String(error) }
    if (canonical(got) === wanted) return got
    if (Date.now() > ends) {
      throw new Error(`${name} is not ${wanted.slice(0, 400)} within ${ms} ms but ${canonical(got).slice(0, 400)}`)
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS))
  }
}

export function serve (ops) {
  async function answer (line) {
    const request = JSON.parse(line)
    let reply
    try {
      if (!Object.hasOwn(ops, request.op)) throw new Error(`unknown request: ${request.op}`)
      reply = { id: request.id, value: (await ops[request.op](request)) ?? null }
    } catch (error) {
      reply = { id: request.id, error: error instanceof Error ? error.message : String(error) }
    }
    process.stdout.write(JSON.stringify(reply) + '\n')
  }

  const input = createInterface({ input: process.stdin, crlfDelay: Infinity })
  input.on('line', (line) => { answer(line) })
  input.on('close', () => process.exit(0)) // whoever drives it is gone
}
