-- For formats that are one file (PDF, Word, JATS), in Quarto and in pandoc: what the manuscript has as HTML, as pandoc's own.
-- For PDF, Quarto would start two processes for each table, and show its `&lt;` as written. What a fold is called becomes a
-- paragraph, in bold; without that, PDF has it run into the next one.
function RawBlock(block)
  if block.format == "html" and block.text:match("^%s*<table") then
    return pandoc.read(block.text, "html").blocks
  end
end

function Blocks(blocks)
  for place, block in ipairs(blocks) do
    if block.t == "RawBlock" and block.text:match("^<summary") then
      blocks[place + 1] = pandoc.Para(pandoc.Strong(blocks[place + 1].content))
    end
  end
  return blocks
end
