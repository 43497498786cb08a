// What programs for Node do with a gateway by OpenAI's library: `node openai_probes.cjs PROBE URL KEY`, with NODE_PATH
// where that is. A probe fails by an exception. It knows nothing of inferd but the URL and the key.
const assert = require("node:assert");
const { OpenAI } = require("openai");

const [name, url, key] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key });
const model = "smollm2";
const messages = [{ role: "user", content: "Say one short sentence." }];
const parameters = {
  type: "object",
  properties: { city: { type: "string", maxLength: 12 } },
  required: ["city"],
  additionalProperties: false,
};
const described = { name: "get_weather", description: "The weather of a city", parameters };

const probes = {
  async chat() {
    const whole = await client.chat.completions.create({ model, messages, max_tokens: 12, temperature: 0 });
    const options = { include_usage: true };
    const stream = await client.chat.completions.create({
      model, messages, max_tokens: 12, temperature: 0, stream: true, stream_options: options,
    });
    let text = "";
    let usage = null;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, whole.choices[0].message.content);
    assert.equal(usage.total_tokens, whole.usage.total_tokens);
    const json_schema = { name: "place", schema: parameters, strict: true };
    const made = await client.chat.completions.create({
      model, messages, max_tokens: 60, response_format: { type: "json_schema", json_schema },
    });
    assert.ok("city" in JSON.parse(made.choices[0].message.content));
    await assert.rejects(client.chat.completions.create({ model: "none", messages }), { code: "MODEL_NOT_FOUND" });
    assert.ok((await client.embeddings.create({ model, input: ["a", "b"] })).data.length === 2);
  },

  async tools() {
    const asked = {
      model, messages, tools: [{ type: "function", function: described }], max_tokens: 120, temperature: 0,
      tool_choice: { type: "function", function: { name: "get_weather" } },
    };
    const made = await client.chat.completions.create(asked);
    const [call] = made.choices[0].message.tool_calls;
    assert.ok("city" in JSON.parse(call.function.arguments));
    const runner = client.chat.completions.stream(asked);
    const last = await runner.finalChatCompletion();
    assert.equal(last.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);
  },

  async responses() {
    const made = await client.responses.create({ model, input: "Say a word.", max_output_tokens: 8 });
    assert.ok(made.output_text);
    const stream = await client.responses.create({
      model, input: "Again.", max_output_tokens: 8, previous_response_id: made.id, stream: true,
    });
    let last = "";
    for await (const event of stream) last = event.type;
    assert.ok(["response.completed", "response.incomplete"].includes(last), last);
    assert.equal((await client.responses.retrieve(made.id)).output_text, made.output_text);
  },
};

probes[name]().catch((error) => {
  console.error(String(error.message ?? error).split("\n")[0]);
  process.exit(1);
});
