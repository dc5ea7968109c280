-- For formats that are one file (PDF, Word, JATS), in Quarto and in pandoc: a link to what does not travel with the file
-- is its text; a notebook's cell is no box of its own, so that a figure may float to the top or the foot of a page; and
-- the line that leads to its notebook, which would stay behind, is left out.
function Link(link)
  if not (link.target:match("^#") or link.target:match("^%a[%w+.-]*:")) then
    return link.content
  end
end

function Span(span)
  if span.classes:includes("source") then
    return {}
  end
end

function Div(div)
  for _, class in ipairs({ "cell", "cell-output", "cell-output-display" }) do
    if div.classes:includes(class) then
      return div.content
    end
  end
end
