'use strict';
// pomelo-cli, with the server that commands apply to: node pomelo-cli.js CONTEXT -h HOST -P PORT -u USER -p PASSWORD
// A person says `use CONTEXT`, which only works if the master has the module watchServer.
const context = process.argv.splice(2, 1)[0];

const place = require.resolve('pomelo-cli/lib/command');
const create = require(place);
require.cache[place].exports = () => {
  const command = create();
  command.setContext(context);
  return command;
};
const consts = require('pomelo-cli/lib/consts');
const prompt = consts.PROMPT;
// cli.js builds its first prompt from a constant and the word `all`.
require('readline').Interface.prototype.setPrompt = ((original) => function setPrompt(text) {
  return original.call(this, text === text.split(prompt)[0] + prompt + 'all>' ? text.replace('all>', context + '>') : text);
})(require('readline').Interface.prototype.setPrompt);

require('pomelo-cli/lib/cli')();
