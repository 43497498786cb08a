"""`inferd.v1.FunctionService`."""

from inferd.core.function import FUNCTION
from inferd.runtime.front import functions as front
from inferd.services.calls import Call
from inferd.services.function_values import write_fault, write_function
from inferd.services.pages import page_of
from inferd_api.v1 import function_service_pb2 as fs

MOST_KEY = 10**9  # above all versions


class Functions:
    """Translates; see the proto for what each call means."""

    def __init__(self, functions: front.Functions) -> None:
        self._functions = functions

    async def ListFunctions(self, request: fs.ListFunctionsRequest, call: Call) -> fs.ListFunctionsResponse:  # noqa: N802 - the wire's name
        """List functions: those that the caller may read."""
        found, faults = await self._functions.list(call.admission.sees)
        keyed = [(f"{each.name} {MOST_KEY - each.version:09}", (each, package)) for each, package in found]
        page, token = page_of(keyed, request.page_size, request.page_token)
        return fs.ListFunctionsResponse(
            functions=[write_function(*each) for each in page],
            next_page_token=token,
            faults=[] if request.page_token else [write_fault(each) for each in faults],
        )

    async def GetFunction(self, request: fs.GetFunctionRequest, call: Call) -> fs.GetFunctionResponse:  # noqa: N802 - the wire's name
        """Read a function."""
        call.admission.check_models((FUNCTION + request.name,))
        return fs.GetFunctionResponse(
            function=write_function(*await self._functions.get(request.name, request.version))
        )
