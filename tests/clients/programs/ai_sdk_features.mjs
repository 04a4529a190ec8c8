// The AI SDK's row of the table in docs/clients.md, by the provider that its argument names: as features.py, for Node.
import { readFileSync } from 'node:fs'

import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { embedMany, generateText, Output, stepCountIs, streamText, tool } from 'ai'
import { z } from 'zod'

const asked = JSON.parse(process.env.TURNPIKE_ASKED)
const form = process.argv[2]
const make = (baseURL) => form === 'openai'
  ? createOpenAI({ baseURL: `${baseURL}/v1`, apiKey: 'none' })
  : createOpenAICompatible({ name: 'turnpike', baseURL: `${baseURL}/v1`, supportsStructuredOutputs: true })
const fields = (prompt) => ({
  model: make(process.env.TURNPIKE_URL)(process.env.TURNPIKE_MODEL),
  prompt,
  temperature: asked.temperature,
  maxOutputTokens: asked.max_tokens,
  maxRetries: 0
})
const city = z.object({ name: z.string(), population: z.number().int() })

async function chat () {
  return Boolean((await generateText(fields(asked.chat))).text)
}

async function stream () {
  const pieces = []
  const result = streamText({ ...fields(asked.stream), onError: ({ error }) => { throw error } })
  for await (const piece of result.textStream) pieces.push(piece)
  return pieces.filter(Boolean).length > 1
}

async function tools () {
  const thermometer = tool({
    description: asked.description,
    inputSchema: z.object({ room: z.enum(asked.rooms) }),
    execute: async ({ room }) => `It is ${asked.celsius} in the ${room}.`
  })
  const result = await generateText({
    ...fields(asked.tools),
    tools: { [asked.name]: thermometer },
    toolChoice: 'required',
    prepareStep: ({ stepNumber }) => stepNumber === 0 ? {} : { toolChoice: 'none' },
    stopWhen: stepCountIs(2)
  })
  return result.steps[0].toolResults.length > 0 && Boolean(result.text)
}

async function schema () {
  const { output } = await generateText({ ...fields(asked.schema), output: Output.object({ schema: city }) })
  return city.safeParse(output).success
}

async function thoughts () {
  const providerOptions = { [form === 'openai' ? 'openai' : 'turnpike']: { reasoningEffort: 'low' } }
  const result = await generateText({ ...fields(asked.thoughts), providerOptions })
  return result.text ? (result.reasoningText ? 'yes' : 'taken') : false
}

async function embeddings () {
  const model = make(process.env.TURNPIKE_EMBEDDER_URL).textEmbeddingModel(process.env.TURNPIKE_EMBEDDER)
  const found = await embedMany({ model, values: asked.embedded, maxRetries: 0 })
  return found.embeddings.length === asked.embedded.length && found.embeddings.every((one) => one.length > 1)
}

const manifest = new URL('node_modules/ai/package.json', import.meta.url)
const found = { client: `ai ${JSON.parse(readFileSync(manifest)).version}, \`${form}\``, features: {} }
const works = { chat, stream, tools, schema, thoughts, ...(process.env.TURNPIKE_EMBEDDER ? { embeddings } : {}) }
for (const [name, work] of Object.entries(works)) {
  try {
    const came = await work()
    found.features[name] = typeof came === 'string' ? came : came ? 'yes' : 'no: nothing came'
  } catch (error) {
    found.features[name] = `no: ${error.name}: ${error.message}`.slice(0, 500)
  }
}
console.log(JSON.stringify(found))
