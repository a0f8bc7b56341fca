-- Health of every kind of sixgate.io for Argo CD; the conditions follow kstatus, so one script serves all of them.
local hs = { status = "Progressing", message = "Waiting for the operator." }
if obj.metadata.deletionTimestamp ~= nil then
  hs.message = "Being removed from the nodes."
  return hs
end
local status = obj.status
if status == nil or status.conditions == nil then
  return hs
end
if status.observedGeneration ~= nil and status.observedGeneration ~= obj.metadata.generation then
  hs.message = "Waiting for the operator to see the latest change."
  return hs
end
for _, condition in ipairs(status.conditions) do
  if condition.type == "Stalled" and condition.status == "True" then
    return { status = "Degraded", message = condition.message }
  end
end
for _, condition in ipairs(status.conditions) do
  if condition.type == "Ready" then
    if condition.status == "True" then
      return { status = "Healthy", message = condition.message }
    end
    hs.message = condition.message
  end
  if condition.type == "Degraded" and condition.status == "True" then
    return { status = "Degraded", message = condition.message }
  end
end
return hs
