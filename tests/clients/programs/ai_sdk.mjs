// The AI SDK with its provider for OpenAI-compatible servers, streamed: it checks the arguments by Zod and runs the tools.
import { readFileSync } from 'node:fs'

import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { stepCountIs, streamText, tool } from 'ai'
import { z } from 'zod'

const house = JSON.parse(process.env.TURNPIKE_HOUSE)
const lamps = { kitchen: false, attic: false, workshop: true }
const celsius = { kitchen: 21.5, attic: 31.0, workshop: 17.0 }
let calls = []

const room = z.enum(house.rooms).describe('which room')
const tools = {
  switch_lamp: tool({
    description: 'Switches the lamp of a room on or off.',
    inputSchema: z.object({ room, on: z.boolean().describe('true is on') }),
    execute: async ({ room, on }) => {
      calls.push(['switch_lamp', { room, on }])
      lamps[room] = on
      return `the lamp in the ${room} is ${on ? 'on' : 'off'}`
    }
  }),
  read_temperature: tool({
    description: 'Measures how warm a room is, in degrees Celsius.',
    inputSchema: z.object({ room }),
    execute: async ({ room }) => {
      calls.push(['read_temperature', { room }])
      return { celsius: celsius[room] }
    }
  })
}

const provider = createOpenAICompatible({ name: 'turnpike', baseURL: process.env.OPENAI_BASE_URL, includeUsage: true })
const manifest = new URL('node_modules/ai/package.json', import.meta.url)
const found = { client: `ai ${JSON.parse(readFileSync(manifest)).version}`, requests: [] }
const messages = []
for (const request of house.requests) {
  messages.push({ role: 'user', content: request })
  const result = streamText({
    model: provider(process.env.TURNPIKE_MODEL),
    system: house.system,
    messages,
    tools,
    temperature: 0,
    maxOutputTokens: house.max_tokens,
    maxRetries: 0,
    stopWhen: stepCountIs(house.max_rounds),
    onError: ({ error }) => { throw error }
  })
  for await (const part of result.fullStream) {
    if (part.type === 'error') throw part.error
  }
  const [response, steps, text] = [await result.response, await result.steps, await result.text]
  // It runs no calls of an answer that was cut off, and takes no history that has them.
  const isCut = (await result.finishReason) === 'length'
  messages.push(...(isCut ? [{ role: 'assistant', content: text || '…' }] : response.messages))
  found.requests.push({ request, answers: steps.length, calls, text })
  calls = []
}
console.log(JSON.stringify({ ...found, lamps }))
