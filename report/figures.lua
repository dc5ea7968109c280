-- For pandoc: what the preview wrote as HTML (see `figure` in preview.py) as a figure or a table of pandoc's own.
local function closed(figure)
  for _, block in ipairs(figure.content) do
    if block.t == "Table" then
      block.caption.long = figure.caption
      block.identifier = figure.id
      return block
    end
  end
  return pandoc.Figure(figure.content, { long = figure.caption }, { id = figure.id })
end

function Blocks(blocks)
  local kept, figure, place = pandoc.Blocks({}), nil, "content"
  for _, block in ipairs(blocks) do
    local html = block.t == "RawBlock" and block.format == "html" and block.text or ""
    local id = html:match('^<figure id="([^"]+)"')
    if id and not html:match("</figure>") then
      figure = { id = id, content = pandoc.Blocks({}), caption = pandoc.Blocks({}) }
    elseif not figure then
      kept:insert(block)
    elseif html:match("^</figure>") then
      kept:insert(closed(figure))
      figure = nil
    elseif html:match("^<figcaption") then
      place = "caption"
    elseif html:match("^</figcaption") then
      place = "content"
    elseif html ~= "" then
      for _, read in ipairs(pandoc.read(html, "html").blocks) do
        figure[place]:extend(read.t == "Div" and read.content or { read })
      end
    else
      figure[place]:insert(block)
    end
  end
  return kept
end
