"""The messages of open_llm/v1/open_llm.proto. Made by `make proto`; do not edit."""

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

SERIALIZED = (
    b'\n\x1aopen_llm/v1/open_llm.proto\x12\x0bopen_llm.v1"\xca\x04\n\x08Sampling\x12%\n\x0bte'
    b'mperature\x18\x01 \x01(\x01H\x00R\x0btemperature\x88\x01\x01\x12\x18\n\x05top_k\x18\x02 \x01(\x03H\x01R\x04topK\x88\x01\x01\x12'
    b'\x18\n\x05top_p\x18\x03 \x01(\x01H\x02R\x04topP\x88\x01\x01\x12\x18\n\x05min_p\x18\x04 \x01(\x01H\x03R\x04minP\x88\x01\x01\x12"\n\nmax_t'
    b'okens\x18\x05 \x01(\x03H\x04R\tmaxTokens\x88\x01\x01\x12>\n\rstop_sequence\x18\x06 \x01(\x0b2\x19.open_ll'
    b'm.v1.StopSequenceR\x0cstopSequence\x120\n\x11frequency_penalty\x18\x07 \x01(\x01H\x05'
    b'R\x10frequencyPenalty\x88\x01\x01\x12.\n\x10presence_penalty\x18\x08 \x01(\x01H\x06R\x0fpresenceP'
    b'enalty\x88\x01\x01\x122\n\x12repetition_penalty\x18\t \x01(\x01H\x07R\x11repetitionPenalty\x88\x01'
    b'\x01\x12\x17\n\x04seed\x18\n \x01(\x03H\x08R\x04seed\x88\x01\x01\x12 \n\tnum_beams\x18\x0b \x01(\x03H\tR\x08numBeams\x88\x01\x01'
    b'B\x0e\n\x0c_temperatureB\x08\n\x06_top_kB\x08\n\x06_top_pB\x08\n\x06_min_pB\r\n\x0b_max_token'
    b'sB\x14\n\x12_frequency_penaltyB\x13\n\x11_presence_penaltyB\x15\n\x13_repetition_'
    b'penaltyB\x07\n\x05_seedB\x0c\n\n_num_beams"$\n\x0cStopSequence\x12\x14\n\x05texts\x18\x01 \x03('
    b'\tR\x05texts"7\n\x07Message\x12\x12\n\x04role\x18\x01 \x01(\tR\x04role\x12\x18\n\x07content\x18\x02 \x01(\tR\x07co'
    b'ntent"\xbf\x01\n\x0bChatRequest\x12\x19\n\x05model\x18\x01 \x01(\tH\x00R\x05model\x88\x01\x01\x12\x1b\n\x06prompt\x18\x02'
    b' \x01(\tH\x01R\x06prompt\x88\x01\x01\x120\n\x08messages\x18\x03 \x03(\x0b2\x14.open_llm.v1.MessageR\x08m'
    b'essages\x121\n\x08sampling\x18\x04 \x01(\x0b2\x15.open_llm.v1.SamplingR\x08samplingB\x08'
    b'\n\x06_modelB\t\n\x07_prompt"\xaa\x01\n\x0fCompleteRequest\x12\x19\n\x05model\x18\x01 \x01(\tH\x00R\x05mo'
    b'del\x88\x01\x01\x12\x1b\n\x06prompt\x18\x02 \x01(\tH\x01R\x06prompt\x88\x01\x01\x121\n\x08sampling\x18\x03 \x01(\x0b2\x15.open'
    b'_llm.v1.SamplingR\x08sampling\x12\x11\n\x01n\x18\x04 \x01(\x03H\x02R\x01n\x88\x01\x01B\x08\n\x06_modelB\t\n\x07_'
    b'promptB\x04\n\x02_n"b\n\x0cEmbedRequest\x12\x19\n\x05model\x18\x01 \x01(\tH\x00R\x05model\x88\x01\x01\x12-\n\x05i'
    b'nput\x18\x02 \x03(\x0b2\x17.open_llm.v1.EmbedInputR\x05inputB\x08\n\x06_model"`\n\nEmbe'
    b'dInput\x12\x14\n\x04text\x18\x01 \x01(\tH\x00R\x04text\x124\n\ttoken_ids\x18\x02 \x01(\x0b2\x15.open_llm.v'
    b'1.TokenIdsH\x00R\x08tokenIdsB\x06\n\x04form"\x1c\n\x08TokenIds\x12\x10\n\x03ids\x18\x01 \x03(\x03R\x03ids'
    b'"j\n\rConfiguration\x121\n\x08sampling\x18\x01 \x01(\x0b2\x15.open_llm.v1.SamplingR\x08'
    b'sampling\x12\x1b\n\x06prompt\x18\x02 \x01(\tH\x00R\x06prompt\x88\x01\x01B\t\n\x07_prompt"\xa1\x01\n\x05Usage\x12#'
    b'\n\rprompt_tokens\x18\x01 \x01(\x03R\x0cpromptTokens\x12+\n\x11completion_tokens\x18\x02 \x01'
    b'(\x03R\x10completionTokens\x12!\n\x0ctotal_tokens\x18\x03 \x01(\x03R\x0btotalTokens\x12#\n\rc'
    b'ached_tokens\x18\x04 \x01(\x03R\x0ccachedTokens"\xfa\x01\n\x0cChatResponse\x12\x0e\n\x02id\x18\x01 \x01('
    b'\tR\x02id\x12\x14\n\x05model\x18\x02 \x01(\tR\x05model\x12\x18\n\x07message\x18\x03 \x01(\tR\x07message\x12>\n\rfin'
    b'ish_reason\x18\x04 \x01(\x0e2\x19.open_llm.v1.FinishReasonR\x0cfinishReason\x12@\n'
    b'\rconfiguration\x18\x05 \x01(\x0b2\x1a.open_llm.v1.ConfigurationR\rconfigurat'
    b'ion\x12(\n\x05usage\x18\x06 \x01(\x0b2\x12.open_llm.v1.UsageR\x05usage"\x80\x02\n\x10CompleteRe'
    b'sponse\x12\x0e\n\x02id\x18\x01 \x01(\tR\x02id\x12\x14\n\x05model\x18\x02 \x01(\tR\x05model\x12\x18\n\x07choices\x18\x03 \x03('
    b'\tR\x07choices\x12@\n\x0efinish_reasons\x18\x04 \x03(\x0e2\x19.open_llm.v1.FinishReaso'
    b'nR\rfinishReasons\x12@\n\rconfiguration\x18\x05 \x01(\x0b2\x1a.open_llm.v1.Config'
    b'urationR\rconfiguration\x12(\n\x05usage\x18\x06 \x01(\x0b2\x12.open_llm.v1.UsageR\x05u'
    b'sage"\xcc\x01\n\rEmbedResponse\x12\x0e\n\x02id\x18\x01 \x01(\tR\x02id\x12\x14\n\x05model\x18\x02 \x01(\tR\x05model'
    b'\x123\n\nembeddings\x18\x03 \x03(\x0b2\x13.open_llm.v1.VectorR\nembeddings\x12\x1c\n\tdim'
    b'ension\x18\x04 \x01(\x03R\tdimension\x12\x18\n\x07pooling\x18\x05 \x01(\tR\x07pooling\x12(\n\x05usage\x18\x06'
    b' \x01(\x0b2\x12.open_llm.v1.UsageR\x05usage" \n\x06Vector\x12\x16\n\x06values\x18\x01 \x03(\x02R\x06v'
    b'alues"X\n\x0bStreamStart\x12\x0e\n\x02id\x18\x01 \x01(\tR\x02id\x12\x14\n\x05model\x18\x02 \x01(\tR\x05model\x12#'
    b'\n\rprompt_tokens\x18\x03 \x01(\x03R\x0cpromptTokens"O\n\x0bStreamDelta\x12\x14\n\x05index\x18'
    b'\x01 \x01(\x03R\x05index\x12\x12\n\x04text\x18\x02 \x01(\tR\x04text\x12\x16\n\x06tokens\x18\x03 \x01(\x03R\x06tokens"\xb9\x01\n'
    b'\tStreamEnd\x12@\n\x0efinish_reasons\x18\x01 \x03(\x0e2\x19.open_llm.v1.FinishReaso'
    b'nR\rfinishReasons\x12@\n\rconfiguration\x18\x02 \x01(\x0b2\x1a.open_llm.v1.Config'
    b'urationR\rconfiguration\x12(\n\x05usage\x18\x03 \x01(\x0b2\x12.open_llm.v1.UsageR\x05u'
    b'sage"\xad\x01\n\x12ChatStreamResponse\x120\n\x05start\x18\x01 \x01(\x0b2\x18.open_llm.v1.Str'
    b'eamStartH\x00R\x05start\x120\n\x05delta\x18\x02 \x01(\x0b2\x18.open_llm.v1.StreamDeltaH\x00'
    b'R\x05delta\x12*\n\x03end\x18\x03 \x01(\x0b2\x16.open_llm.v1.StreamEndH\x00R\x03endB\x07\n\x05event'
    b'"\xb1\x01\n\x16CompleteStreamResponse\x120\n\x05start\x18\x01 \x01(\x0b2\x18.open_llm.v1.Str'
    b'eamStartH\x00R\x05start\x120\n\x05delta\x18\x02 \x01(\x0b2\x18.open_llm.v1.StreamDeltaH\x00'
    b'R\x05delta\x12*\n\x03end\x18\x03 \x01(\x0b2\x16.open_llm.v1.StreamEndH\x00R\x03endB\x07\n\x05event'
    b'"\x13\n\x11ListModelsRequest"@\n\x12ListModelsResponse\x12*\n\x06models\x18\x01 \x03(\x0b2'
    b'\x12.open_llm.v1.ModelR\x06models"\xaa\x02\n\x05Model\x12\x0e\n\x02id\x18\x01 \x01(\tR\x02id\x12\x16\n\x06fam'
    b'ily\x18\x02 \x01(\tR\x06family\x12\x16\n\x06status\x18\x03 \x01(\tR\x06status\x12\x18\n\x07aliases\x18\x04 \x03(\tR\x07'
    b'aliases\x12*\n\x0econtext_length\x18\x05 \x01(\x03H\x00R\rcontextLength\x88\x01\x01\x12"\n\x0ccapab'
    b'ilities\x18\x06 \x03(\tR\x0ccapabilities\x124\n\x13embedding_dimension\x18\x07 \x01(\x03H\x01R\x12'
    b'embeddingDimension\x88\x01\x01\x12\x16\n\x06copies\x18\x08 \x01(\x03R\x06copiesB\x11\n\x0f_context_le'
    b'ngthB\x16\n\x14_embedding_dimension*_\n\x0cFinishReason\x12\x1d\n\x19FINISH_REASO'
    b'N_UNSPECIFIED\x10\x00\x12\x16\n\x12FINISH_REASON_STOP\x10\x01\x12\x18\n\x14FINISH_REASON_LEN'
    b'GTH\x10\x022\xc0\x03\n\x07OpenLLM\x12;\n\x04Chat\x12\x18.open_llm.v1.ChatRequest\x1a\x19.open_l'
    b'lm.v1.ChatResponse\x12I\n\nChatStream\x12\x18.open_llm.v1.ChatRequest\x1a\x1f'
    b'.open_llm.v1.ChatStreamResponse0\x01\x12G\n\x08Complete\x12\x1c.open_llm.v1.'
    b'CompleteRequest\x1a\x1d.open_llm.v1.CompleteResponse\x12U\n\x0eCompleteSt'
    b'ream\x12\x1c.open_llm.v1.CompleteRequest\x1a#.open_llm.v1.CompleteStr'
    b'eamResponse0\x01\x12>\n\x05Embed\x12\x19.open_llm.v1.EmbedRequest\x1a\x1a.open_llm'
    b'.v1.EmbedResponse\x12M\n\nListModels\x12\x1e.open_llm.v1.ListModelsRequ'
    b'est\x1a\x1f.open_llm.v1.ListModelsResponseb\x06proto3'
)
# A pool of its own: another package in this process may bring another version of the file.
POOL = descriptor_pool.DescriptorPool()
POOL.AddSerializedFile(SERIALIZED)
DESCRIPTOR = POOL.FindFileByName("open_llm/v1/open_llm.proto")

FinishReason = enum_type_wrapper.EnumTypeWrapper(DESCRIPTOR.enum_types_by_name['FinishReason'])
FINISH_REASON_UNSPECIFIED = 0
FINISH_REASON_STOP = 1
FINISH_REASON_LENGTH = 2
Sampling = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['Sampling'])
StopSequence = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['StopSequence'])
Message = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['Message'])
ChatRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ChatRequest'])
CompleteRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['CompleteRequest'])
EmbedRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['EmbedRequest'])
EmbedInput = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['EmbedInput'])
TokenIds = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['TokenIds'])
Configuration = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['Configuration'])
Usage = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['Usage'])
ChatResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ChatResponse'])
CompleteResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['CompleteResponse'])
EmbedResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['EmbedResponse'])
Vector = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['Vector'])
StreamStart = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['StreamStart'])
StreamDelta = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['StreamDelta'])
StreamEnd = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['StreamEnd'])
ChatStreamResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ChatStreamResponse'])
CompleteStreamResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['CompleteStreamResponse'])
ListModelsRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ListModelsRequest'])
ListModelsResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ListModelsResponse'])
Model = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['Model'])
